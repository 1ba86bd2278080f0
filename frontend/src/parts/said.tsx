/** What the model said: thought and action apart, and what the parser made of it. */

import { words } from "../format";
import type { Step, Token } from "../types";
import { TokenLegend, Tokens } from "./tokens";

export function Said({ step, hasColours, setColours }: { step: Step; hasColours: boolean; setColours: (has: boolean) => void }) {
  const tokens = step.tokens ?? [];
  const isColoured = hasColours && tokens.length > 0;
  // Without a thought, what stands before the action is the format's own words: it belongs to the action's text.
  const hasThought = Boolean(step.thought?.trim());
  const written = hasThought ? tokens.filter((token) => token.is_thought) : [];
  const rest = hasThought ? tokens.filter((token) => !token.is_thought) : tokens;
  return (
    <section class="card said" aria-labelledby="said-title">
      <h2>
        <span id="said-title">Completion</span>
        {tokens.length > 0 && (
          <label class="check end">
            <input type="checkbox" checked={hasColours} onChange={() => setColours(!hasColours)} /> colour by log-probability
          </label>
        )}
      </h2>
      <h3>Thought</h3>
      <Text isColoured={isColoured} tokens={written} text={step.thought} empty="no thought" isThought />
      <h3>Action</h3>
      <Text isColoured={isColoured} tokens={rest} text={actionText(step)} empty="nothing written" />
      {isColoured && <TokenLegend />}
      <Parse step={step} />
    </section>
  );
}

function Text({ isColoured, tokens, text, empty, isThought }: { isColoured: boolean; tokens: Token[]; text: string | null; empty: string; isThought?: boolean }) {
  if (isColoured && tokens.length) {
    return (
      <pre class="written">
        <Tokens tokens={tokens} />
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

function Parse({ step }: { step: Step }) {
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
      <div>
        <dt>Executed</dt>
        <dd class={isOther ? "warn" : ""}>
          {step.executed_name ?? "nothing"} {isOther && `by ${step.executed_by}`}
        </dd>
      </div>
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
