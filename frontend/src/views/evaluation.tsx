/** The ladder: every policy under every decoding, with its interval. */

import type { ViewProps } from "../app";
import { useAnswer } from "../api";
import { count, fixed, number, percent, percentInterval, words } from "../format";
import { Failure, Notes, RunTitle } from "../parts/common";
import { Films } from "../parts/films";
import type { EvalRow, Evaluation, Interval } from "../types";

export function EvaluationView({ route, run, all }: ViewProps) {
  const { data, error } = useAnswer<{ evaluations: Evaluation[]; notes?: string[] }>("/api/evaluations", { run: run.id }, run.state === "running");
  return (
    <>
      <RunTitle title="Evaluation" route={route} run={run} all={all} />
      {error && <Failure error={error} />}
      <Notes notes={data?.notes} />
      {data?.evaluations.length === 0 && <p class="quiet">This run has not been evaluated yet.</p>}
      {data?.evaluations.map((evaluation) => (
        <Ladder key={`${evaluation.name} ${evaluation.split ?? ""}`} evaluation={evaluation} />
      ))}
      <Films run={run.id} isLive={run.state === "running"} />
    </>
  );
}

function Ladder({ evaluation }: { evaluation: Evaluation }) {
  const title = `ladder-${evaluation.name}`;
  return (
    <section class="ladder" aria-labelledby={title}>
      <h2 id={title}>
        {evaluation.name}
        {evaluation.split && `, ${evaluation.split}`} <small class="inline">{evaluation.env}</small>
      </h2>
      <div class="scroll" tabIndex={0} role="region" aria-label={`Ladder of ${evaluation.name}`}>
        <table>
          <thead>
            <tr>
              <th scope="col">Policy</th>
              <th scope="col">Decoding</th>
              <th scope="col" class="plot">
                <span class="scale">
                  <span>0</span>
                  <span>strict success, 95 % interval</span>
                  <span>100 %</span>
                </span>
              </th>
              <th scope="col" class="number">Strict</th>
              <th scope="col" class="number">Success</th>
              <th scope="col" class="number">Return</th>
              <th scope="col" class="number">Parsed</th>
              <th scope="col" class="number">Facts right</th>
              <th scope="col" class="number">Steps</th>
              <th scope="col" class="number">Episodes</th>
            </tr>
          </thead>
          <tbody>
            {evaluation.rows.map((row, index) => (
              <Rung key={index} row={row} isFirst={row.policy !== evaluation.rows[index - 1]?.policy} />
            ))}
          </tbody>
        </table>
      </div>
      <Starts rows={evaluation.rows} />
      <p class="quiet small">
        Seed {evaluation.seed} · {evaluation.created} · commit {evaluation.commit.slice(0, 10)}
        {evaluation.dirty && " with changes"} · {number(evaluation.duration_s, 3)} s. Strict success counts an episode with any fallback action as failed.
      </p>
    </section>
  );
}

function Rung({ row, isFirst }: { row: EvalRow; isFirst: boolean }) {
  return (
    <tr class={isFirst ? "first" : ""}>
      <th scope="row">{isFirst ? words(row.policy) : <span class="hidden">{words(row.policy)}</span>}</th>
      <td>{row.decoding}</td>
      <td class="plot">
        <Dot rate={row.strict_success_rate} interval={row.strict_success_interval} isOwn={row.policy === "rl"} />
      </td>
      <td class="number">
        {percent(row.strict_success_rate)} <small class="inline">{percentInterval(row.strict_success_interval)}</small>
      </td>
      <td class="number">{percent(row.success_rate)}</td>
      <td class="number" title={row.return_interval ? `${number(row.return_interval[0])} to ${number(row.return_interval[1])}` : ""}>
        {fixed(row.return_mean, 2)} <small class="inline">{row.return_interval && `${fixed(row.return_interval[0], 1)} to ${fixed(row.return_interval[1], 1)}`}</small>
      </td>
      <td class="number">{percent(row.parse_rate)}</td>
      <td class="number">{percent(row.recognition_accuracy)}</td>
      <td class="number" title={Object.entries(row.stop_reasons).map(([reason, n]) => `${words(reason)}: ${n}`).join(", ")}>
        {fixed(row.mean_length_steps, 1)}
      </td>
      <td class="number">{row.episodes}</td>
    </tr>
  );
}

function Dot({ rate, interval, isOwn }: { rate: number | null | undefined; interval: Interval; isOwn: boolean }) {
  if (rate == null) return <span class="quiet">unknown</span>;
  return (
    <svg class={`dot ${isOwn ? "own" : ""}`} aria-hidden="true">
      {[0, 25, 50, 75, 100].map((x) => (
        <line key={x} class="tick" x1={`${x}%`} x2={`${x}%`} y1={-7} y2={23} />
      ))}
      {interval && <line class="whisker" x1={`${interval[0] * 100}%`} x2={`${interval[1] * 100}%`} y1={8} y2={8} />}
      <circle cx={`${rate * 100}%`} cy={8} r={4} />
    </svg>
  );
}

/** A task with few starting states tests fit, not generalisation: the page says so. */
function Starts({ rows }: { rows: EvalRow[] }) {
  const first = rows.find((row) => row.distinct_starts_seen_in_training != null);
  if (!first) return null;
  return (
    <p class="small">
      {count(first.distinct_starts, "distinct starting state")}, of which training saw {first.distinct_starts_seen_in_training}.
      {first.distinct_starts_seen_in_training === first.distinct_starts && " This measures fit, not generalisation."}
    </p>
  );
}
