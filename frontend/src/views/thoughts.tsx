/** The health of the thoughts over time, and examples from any point of the curves. */

import type { ViewProps } from "../app";
import { useAnswer } from "../api";
import { words } from "../format";
import { useKeys } from "../keys";
import { Chart } from "../parts/chart";
import { Choose, Failure, RunTitle } from "../parts/common";
import { current, link, update } from "../route";
import type { ThoughtRecord } from "../types";

const TITLES: Record<string, string> = {
  unique_share: "unique thoughts, share",
  parse_rate: "parse rate",
  recognition_accuracy: "recognition accuracy",
  entropy_nats: "entropy, nats",
  completion_length_tokens: "completion length, tokens",
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
  useKeys({ ArrowLeft: () => move(-1), ArrowRight: () => move(1), Home: () => pick(0), End: () => pick(records.length - 1) });
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
          <div class="charts">
            {quantities(records).map((name) => (
              <Chart
                key={name}
                title={TITLES[name] ?? words(name)}
                curves={[curve(records, name)]}
                xLabel="iteration"
                marked={record.iteration}
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
  names.delete("iteration");
  return [...names];
}

function curve(records: ThoughtRecord[], name: string) {
  const points = records.filter((record) => typeof record[name] === "number");
  return { x: points.map((record) => record.iteration), y: points.map((record) => record[name] as number), name: words(name), colour: 0 };
}

function longest(records: ThoughtRecord[], stages: string[]): string {
  const size = (stage: string) => records.filter((record) => (record.stage ?? "") === stage).length;
  return [...stages].sort((a, b) => size(b) - size(a))[0] ?? "";
}
