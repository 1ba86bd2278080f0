/** What the model said: thought and action apart, and what the parser made of it. */

import { words } from "../format";
import type { Step, Token } from "../types";
import { hasNumbers, SCALES, TokenLegend, Tokens, type Colouring } from "./tokens";

interface Props {
  step: Step;
  colouring: Colouring;
  setColouring?: (colouring: Colouring) => void;
  isPlayed?: boolean; // false: it is what the model would do
}

export function Said({ step, colouring: wanted, setColouring, isPlayed = true }: Props) {
  const tokens = step.tokens ?? [];
  const colouring = tokens.length > 0 && hasNumbers(tokens, wanted) ? wanted : "none";
  // Without a thought, what stands before the action is the format's own words: it belongs to the action's text.
  const hasThought = Boolean(step.thought?.trim());
  const written = hasThought ? tokens.filter((token) => token.is_thought) : [];
  const rest = hasThought ? tokens.filter((token) => !token.is_thought) : tokens;
  return (
    <section class="card said" aria-labelledby="said-title">
      <h2>
        <span id="said-title">{isPlayed ? "Completion" : "What the model would do"}</span>
        {tokens.length > 0 && setColouring && (
          <label class="colouring end">
            colour by{" "}
            <select value={colouring} onChange={(event) => setColouring(event.currentTarget.value as Colouring)}>
              <option value="none">nothing</option>
              {Object.entries(SCALES).map(([value, scale]) => (
                <option key={value} value={value} disabled={!hasNumbers(tokens, value as Colouring)}>
                  {scale.name}
                </option>
              ))}
            </select>
          </label>
        )}
      </h2>
      <h3>Thought</h3>
      <Text colouring={colouring} tokens={written} text={step.thought} empty="no thought" isThought />
      <h3>Action</h3>
      <Text colouring={colouring} tokens={rest} text={actionText(step)} empty="nothing written" />
      {colouring !== "none" && <TokenLegend colouring={colouring} />}
      <Parse step={step} isPlayed={isPlayed} />
    </section>
  );
}

function Text({ colouring, tokens, text, empty, isThought }: { colouring: Colouring; tokens: Token[]; text: string | null; empty: string; isThought?: boolean }) {
  if (colouring !== "none" && tokens.length) {
    return (
      <pre class="written">
        <Tokens tokens={tokens} colouring={colouring} />
      </pre>
    );
  }
  return text?.trim() ? <p class={`written ${isThought ? "thought" : ""}`}>{text}</p> : <p class="quiet">{empty}</p>;
}

/** What stands after the thought; the whole completion where the thought is not a part of it. */
function actionText(step: Step): string {
  const start = step.thought ? step.completion_text.lastIndexOf(step.thought) : -1;
  return start < 0 ? step.completion_text : step.completion_text.slice(start + step.thought!.length);
}

function Parse({ step, isPlayed }: { step: Step; isPlayed: boolean }) {
  const isOther = step.executed_name !== step.action_name || step.executed_by !== "policy";
  return (
    <dl class="facts parse">
      <div>
        <dt>Parsed</dt>
        <dd>{step.parse.ok ? <span class="good">✓ {step.action_name}</span> : <span class="bad">✗ {words(step.parse.reason ?? "failure")}</span>}</dd>
      </div>
      {step.parse.detail && (
        <div class="wide">
          <dt>Detail</dt>
          <dd>{step.parse.detail}</dd>
        </div>
      )}
      {isPlayed && (
        <div>
          <dt>Executed</dt>
          <dd class={isOther ? "warn" : ""}>
            {step.executed_name ?? "nothing"} {isOther && `by ${step.executed_by}`}
          </dd>
        </div>
      )}
      <div>
        <dt>Ended by</dt>
        <dd>{words(step.finish_reason ?? "–")}</dd>
      </div>
      <div>
        <dt>Policy version</dt>
        <dd>{step.policy_version ?? "–"}</dd>
      </div>
    </dl>
  );
}
