/** What the model wrote, token by token, coloured by a number of each token. */

import { number, percent, signed, words } from "../format";
import { between, surprise } from "../messages";
import type { Token } from "../types";

export type Colouring = "none" | "logprob" | "gap" | "advantage" | "ratio";

interface Scale {
  name: string;
  says: string;
  value: (token: Token) => number | null | undefined;
  shade: (value: number) => string;
  legend: [shade: string, text: string][];
}

const known = (value: number | null | undefined): value is number => value != null && Number.isFinite(value);

/** Classes on both sides of "no difference". */
function sided(edges: number[], texts: (edge: number, isAbove: boolean) => string) {
  const shade = (value: number) => {
    const size = between(Math.abs(value), edges);
    return size === 0 ? "even" : `${value > 0 ? "above" : "below"}-${size}`;
  };
  const above = edges.map((edge, index): [string, string] => [`above-${index + 1}`, texts(edge, true)]);
  const below = edges.map((edge, index): [string, string] => [`below-${index + 1}`, texts(edge, false)]).reverse();
  return { shade, legend: [...below, ["even", "between"], ...above] as [string, string][] };
}

export const SCALES: Record<Exclude<Colouring, "none">, Scale> = {
  logprob: {
    name: "log-probability",
    says: "How likely the token was when it was sampled",
    value: (token) => token.logprob,
    shade: (value) => `surprise-${surprise(value)}`,
    legend: ["> 90 %", "> 60 %", "> 30 %", "> 10 %", "> 1 %", "> 0.001 %", "less"].map((text, index) => [`surprise-${index}`, text]),
  },
  gap: {
    name: "sampler–learner gap",
    says: "The learner's log-probability at its first pass, less the sampler's, in nats",
    value: (token) => (known(token.learner_logprob) && known(token.logprob) ? token.learner_logprob - token.logprob : null),
    ...sided([1e-4, 1e-3, 1e-2, 1e-1], (edge, isAbove) => (isAbove ? `> ${edge}` : `< −${edge}`)),
  },
  advantage: {
    name: "advantage",
    says: "What the token's step was worth beyond what was expected of it",
    value: (token) => token.advantage,
    ...sided([0.05, 0.5, 1, 2], (edge, isAbove) => (isAbove ? `> ${edge}` : `< −${edge}`)),
  },
  ratio: {
    name: "ratio",
    says: "How often as likely the token was after the iteration's updates as when it was sampled",
    value: (token) => (known(token.ratio) && token.ratio > 0 ? Math.log(token.ratio) : null),
    ...sided([Math.log(1.01), Math.log(1.1), Math.log(1.2), Math.log(2)], (edge, isAbove) =>
      isAbove ? `> ${number(Math.exp(edge), 3)}` : `< ${number(Math.exp(-edge), 3)}`,
    ),
  },
};

/** What an address asks for. */
export function colouringOf(name: string | null): Colouring {
  return name === "none" || (name !== null && Object.hasOwn(SCALES, name)) ? (name as Colouring) : "logprob";
}

/** Whether any of the tokens has the number that a colouring shows. */
export function hasNumbers(tokens: Token[], colouring: Colouring): boolean {
  return colouring === "none" || tokens.some((token) => known(SCALES[colouring].value(token)));
}

/** The colouring after this one among those that have numbers. */
export function nextColouring(tokens: Token[], now: Colouring): Colouring {
  const all = (["none", ...Object.keys(SCALES)] as Colouring[]).filter((one) => hasNumbers(tokens, one));
  return all[(all.indexOf(now) + 1) % all.length]!;
}

export function Tokens({ tokens, colouring }: { tokens: Token[]; colouring: Exclude<Colouring, "none"> }) {
  const { value, shade } = SCALES[colouring];
  return (
    <>
      {tokens.map((token, index) => {
        const own = value(token);
        return (
          <span key={index} class={`token ${known(own) ? shade(own) : ""}`} title={tooltip(token)}>
            {token.text}
          </span>
        );
      })}
    </>
  );
}

function tooltip(token: Token): string {
  const lines = [JSON.stringify(token.text)];
  if (token.logprob === null) lines.push("no log-probability");
  else {
    const probability = Math.exp(token.logprob);
    lines.push(`${probability > 0.001 ? percent(probability, 1) : number(probability)} (log-probability ${number(token.logprob)})`);
  }
  const gap = SCALES.gap.value(token);
  if (known(gap)) lines.push(`sampler–learner gap ${signed(gap)} nats`);
  if (known(token.advantage)) lines.push(`advantage ${signed(token.advantage)}`);
  if (known(token.ratio)) lines.push(`ratio ${number(token.ratio)}`);
  return lines.join("\n");
}

export function TokenLegend({ colouring }: { colouring: Exclude<Colouring, "none"> }) {
  const { name, says, legend } = SCALES[colouring];
  return (
    <div class="ramp" role="group" aria-label={`Colours of the tokens by ${words(name)}`}>
      <small>{says}</small>
      {legend.map(([shade, text]) => (
        <span key={shade} class={`token ${shade}`}>
          {text}
        </span>
      ))}
    </div>
  );
}
