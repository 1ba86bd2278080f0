/** What the model wrote, token by token, coloured by how likely each token was. */

import { number, percent } from "../format";
import { surprise } from "../messages";
import type { Token } from "../types";

export function Tokens({ tokens }: { tokens: Token[] }) {
  return (
    <>
      {tokens.map((token, index) => (
        <span key={index} class={`token surprise-${surprise(token.logprob)}`} title={tooltip(token)}>
          {token.text}
        </span>
      ))}
    </>
  );
}

function tooltip(token: Token): string {
  if (token.logprob === null) return `${JSON.stringify(token.text)}: no log-probability`;
  const probability = Math.exp(token.logprob);
  return `${JSON.stringify(token.text)}  ${probability > 0.001 ? percent(probability, 1) : number(probability)}  (log-probability ${number(token.logprob)})`;
}

const CLASSES = ["> 90 %", "> 60 %", "> 30 %", "> 10 %", "> 1 %", "> 0.001 %", "less"];

export function TokenLegend() {
  return (
    <p class="ramp" aria-label="Colours of the tokens by probability">
      {CLASSES.map((text, index) => (
        <span key={text} class={`token surprise-${index}`}>
          {text}
        </span>
      ))}
    </p>
  );
}
