/** The health of the thoughts over time, and examples from any point of the curves. */

import type { ViewProps } from "../app";
import { useAnswer } from "../api";
import { warning, words } from "../format";
import { useKeys } from "../keys";
import { Chart } from "../parts/chart";
import { Choose, Failure, RunTitle } from "../parts/common";
import { changed, current, link, update, type Route } from "../route";
import type { ThoughtRecord } from "../types";

const TITLES: Record<string, string> = {
  unique_share: "unique thoughts, share",
  parse_rate: "parse rate",
  recognition_accuracy: "recognition accuracy",
  entropy_nats: "entropy, nats",
  thought_entropy_nats: "entropy of thoughts, nats",
  action_entropy_nats: "entropy of actions, nats",
  completion_length_tokens: "completion length, tokens",
  action_agreement: "actions that follow from the thought, share",
  mutual_information_nats: "mutual information with the prompt, nats",
  own_prompt_share: "likeliest under their own prompt, share",
  self_bleu: "self-BLEU",
};

export function Thoughts({ route, run, all }: ViewProps) {
  const { data, error } = useAnswer<{ iterations: ThoughtRecord[] }>("/api/thoughts", { run: run.id }, run.state === "running");
  const stages = [...new Set((data?.iterations ?? []).map((record) => record.stage ?? ""))];
  const stage = route.query.get("stage") ?? longest(data?.iterations ?? [], stages);
  const records = (data?.iterations ?? []).filter((record) => (record.stage ?? "") === stage);
  const asked = Number(route.query.get("iteration") ?? NaN);
  const found = records.findIndex((record) => record.iteration === asked);
  const index = found < 0 ? records.length - 1 : found;
  const record = records[index];
  const pick = (at: number) => {
    const next = records[Math.min(records.length - 1, Math.max(0, at))];
    if (next) update({ iteration: next.iteration });
  };
  const move = (by: number) => {
    const here = records.findIndex((one) => String(one.iteration) === current("iteration"));
    pick((here < 0 ? index : here) + by);
  };
  useKeys(record ? { ArrowLeft: () => move(-1), ArrowRight: () => move(1), Home: () => pick(0), End: () => pick(records.length - 1) } : {});
  return (
    <>
      <RunTitle title="Thoughts" route={route} run={run} all={all} />
      {error && <Failure error={error} />}
      {data && !record && <p class="quiet">No iteration with thoughts has been recorded yet.</p>}
      {record && (
        <>
          <div class="controls">
            <Choose label="Stage" value={stage} options={stages.map((value) => ({ value, text: value }))} onChange={(value) => update({ stage: value, iteration: null })} />
            <label class="field grow">
              <span>Examples from iteration</span>
              <input type="range" min={0} max={records.length - 1} value={index} aria-valuetext={`iteration ${record.iteration}`} onInput={(event) => pick(Number(event.currentTarget.value))} />
              <output>{record.iteration}</output>
            </label>
          </div>
          <Warnings route={route} records={records} />
          <div class="charts">
            {quantities(records).map((name) => (
              <Chart
                key={name}
                title={TITLES[name] ?? words(name)}
                curves={[curve(records, name)]}
                xLabel="iteration"
                xRange={[records[0]!.iteration, records.at(-1)!.iteration]}
                marked={record.iteration}
                flagged={records.filter((one) => one.warnings?.length).map((one) => one.iteration)}
                onPick={(x) => pick(records.findIndex((one) => one.iteration === x))}
                height={150}
              />
            ))}
          </div>
          <Examples run={run.id} record={record} />
        </>
      )}
    </>
  );
}

/** What the training said of a collapse, beside the point of the curves where it was first seen. */
function Warnings({ route, records }: { route: Route; records: ThoughtRecord[] }) {
  const all = records.flatMap((record) => (record.warnings ?? []).map((text) => ({ iteration: record.iteration, text })));
  if (all.length === 0) return null;
  return (
    <section aria-labelledby="warnings-title">
      <h2 id="warnings-title">Warnings</h2>
      <ul class="notes warnings">
        {all.map(({ iteration, text }) => {
          const { name, cause, remedy } = warning(text);
          return (
            <li key={`${iteration} ${text}`}>
              <a href={changed(route, { iteration })}>Iteration {iteration}</a> <strong>{words(name)}</strong> <Code text={cause} />
              {remedy && (
                <div>
                  <Code text={remedy} />
                </div>
              )}
            </li>
          );
        })}
      </ul>
    </section>
  );
}

/** What stands between backticks as code. */
function Code({ text }: { text: string }) {
  return <>{text.split("`").map((part, index) => (index % 2 ? <code key={index}>{part}</code> : part))}</>;
}

function Examples({ run, record }: { run: string; record: ThoughtRecord }) {
  return (
    <section aria-labelledby="examples-title">
      <h2 id="examples-title">Iteration {record.iteration}</h2>
      {record.examples.length === 0 && <p class="quiet">No example was recorded at this iteration.</p>}
      <ul class="examples">
        {record.examples.map((example) => (
          <li key={`${example.key} ${example.step}`} class="card">
            <p class={example.thought ? "written thought" : "quiet"}>{example.thought || "no thought"}</p>
            <p class="small">
              <span class="chip">{example.action_name ?? "no action"}</span>{" "}
              <a href={link("episode", { run, key: example.key, step: example.step })}>
                {example.key}, step {example.step}
              </a>
            </p>
          </li>
        ))}
      </ul>
    </section>
  );
}

function quantities(records: ThoughtRecord[]): string[] {
  const names = new Set(records.flatMap((record) => Object.keys(record).filter((name) => typeof record[name] === "number")));
  return [...names].filter((name) => name !== "iteration" && !name.endsWith("_count"));
}

function curve(records: ThoughtRecord[], name: string) {
  const points = records.filter((record) => typeof record[name] === "number");
  return { x: points.map((record) => record.iteration), y: points.map((record) => record[name] as number), name: words(name), colour: 0 };
}

function longest(records: ThoughtRecord[], stages: string[]): string {
  const size = (stage: string) => records.filter((record) => (record.stage ?? "") === stage).length;
  return [...stages].sort((a, b) => size(b) - size(a))[0] ?? "";
}
