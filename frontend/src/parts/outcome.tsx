/** What came of a step: the actions with their probabilities, the reward by component, value, advantage, facts. */

import { number, percent, plain, signed, words } from "../format";
import type { Step } from "../types";

export function Outcome({ step }: { step: Step }) {
  const facts = Object.keys({ ...step.facts_truth, ...step.facts_written });
  return (
    <div class="cards">
      <div class={facts.length > 0 ? "column" : "cards both"}>
        <Actions step={step} />
        <Reward step={step} />
      </div>
      {facts.length > 0 && <Facts step={step} keys={facts} />}
    </div>
  );
}

export function Actions({ step }: { step: Step }) {
  const scored = step.action_probabilities;
  if (!scored && !step.legal_actions) return null;
  return (
    <section class="card" aria-labelledby="actions-title">
      <h2 id="actions-title">
        Legal actions
        {!scored && <small class="inline">not scored</small>}
      </h2>
      {scored ? (
        <ul class="bars">
          {scored.map((action, index) => (
            <li key={index} class={action.is_chosen ? "chosen" : ""}>
              <span class="name">
                {action.name}
                {action.is_chosen && <span class="hidden"> (chosen)</span>}
              </span>
              <span class="bar">
                <span style={{ width: `${action.probability * 100}%` }} />
              </span>
              <span class="number">{percent(action.probability, 1)}</span>
            </li>
          ))}
        </ul>
      ) : (
        <ul class="chips">
          {step.legal_actions!.map((action, index) => (
            <li key={index} class={plain(action) === step.executed_name ? "chosen" : ""}>
              {plain(action)}
            </li>
          ))}
        </ul>
      )}
    </section>
  );
}

function Reward({ step }: { step: Step }) {
  const { terms, environment_scale: scale, total } = step.reward;
  return (
    <section class="card" aria-labelledby="reward-title">
      <h2 id="reward-title">Reward</h2>
      <table class="ledger">
        <tbody>
          {Object.entries(terms).map(([name, value]) => (
            <tr key={name}>
              <th scope="row">
                {words(name)}
                {name === "environment" && scale !== 1 && <small class="inline"> × {number(scale)}</small>}
              </th>
              <td class="number">{signed(value)}</td>
            </tr>
          ))}
          <tr class="total">
            <th scope="row">total</th>
            <td class={`number ${total > 0 ? "good" : total < 0 ? "bad" : ""}`}>{signed(total)}</td>
          </tr>
          <tr>
            <th scope="row">value</th>
            <td class="number">{number(step.value)}</td>
          </tr>
          <tr>
            <th scope="row">advantage</th>
            <td class="number">{signed(step.advantage)}</td>
          </tr>
        </tbody>
      </table>
    </section>
  );
}

function Facts({ step, keys }: { step: Step; keys: string[] }) {
  const written = step.facts_written ?? {};
  const truth = step.facts_truth ?? {};
  const hasWritten = Object.keys(written).length > 0;
  return (
    <section class="card" aria-labelledby="facts-title">
      <h2 id="facts-title">Facts</h2>
      <table class="ledger facts-table">
        <thead>
          <tr>
            <th scope="col">
              <span class="hidden">Fact</span>
            </th>
            {hasWritten && <th scope="col">written</th>}
            <th scope="col">truth</th>
          </tr>
        </thead>
        <tbody>
          {keys.map((key) => {
            const isGraded = key in written && key in truth;
            const isRight = plain(written[key]) === plain(truth[key]);
            return (
              <tr key={key}>
                <th scope="row">{key}</th>
                {hasWritten && (
                  <td class={isGraded ? (isRight ? "good" : "bad") : ""}>
                    {key in written ? plain(written[key]) : "–"} {isGraded && (isRight ? "✓" : "✗")}
                  </td>
                )}
                <td>{key in truth ? plain(truth[key]) : "–"}</td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </section>
  );
}
