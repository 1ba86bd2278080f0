/** The resolved configuration of a run, where it was made, and what differs from another run. */

import type { ViewProps } from "../app";
import { useAnswer } from "../api";
import { count, number, plain, words } from "../format";
import { PlayCommand } from "../parts/command";
import { Choose, Failure, Notes, RunTitle } from "../parts/common";
import { update } from "../route";
import { pieces } from "../toml";
import type { DiffRow, RunDetail } from "../types";

export function Config({ route, run, all }: ViewProps) {
  const { data, error } = useAnswer<RunDetail>("/api/run", { run: run.id }, run.state === "running");
  const chosen = route.query.getAll("run")[1] ?? "";
  const against = route.query.get("against") ?? (all.some((one) => one.id === chosen) ? chosen : "");
  const others = all.filter((one) => one.id !== run.id);
  return (
    <>
      <RunTitle title="Configuration" route={route} run={run} all={all}>
        <span class="end">
          <Choose label="Difference to" any="no other run" value={against} options={others.map((one) => ({ value: one.id, text: one.id }))} onChange={(id) => update({ against: id })} />
        </span>
      </RunTitle>
      {error && <Failure error={error} />}
      <Notes notes={data?.notes} />
      {against && <Difference run={run.id} against={against} />}
      {data && (
        <div class="step">
          <section class="card" aria-labelledby="toml-title">
            <h2 id="toml-title">config.toml</h2>
            {data.config_toml ? <Toml text={data.config_toml} /> : <p class="quiet">No configuration was recorded: this is a dataset.</p>}
          </section>
          <div class="column">
            <PlayCommand run={run.id} envs={run.env_ids} />
            <Stages stages={data.stages} />
            <section class="card" aria-labelledby="environment-title">
              <h2 id="environment-title">Made with</h2>
              <Tree value={data.environment} />
            </section>
          </div>
        </div>
      )}
    </>
  );
}

function Toml({ text }: { text: string }) {
  return (
    <pre class="toml">
      {text
        .trimEnd()
        .split("\n")
        .map((line, index) => (
          <span key={index} class="line">
            {pieces(line).map((piece, at) => (
              <span key={at} class={`toml-${piece.kind}`}>
                {piece.text}
              </span>
            ))}
            {"\n"}
          </span>
        ))}
    </pre>
  );
}

function Difference({ run, against }: { run: string; against: string }) {
  const { data, error } = useAnswer<{ rows: DiffRow[] }>("/api/diff", { runs: [run, against] });
  return (
    <section class="card" aria-labelledby="difference-title">
      <h2 id="difference-title">
        Difference <small class="inline">{data && `${count(data.rows.length, "setting")} of ${run} and ${against}`}</small>
      </h2>
      {error && <Failure error={error} />}
      {data?.rows.length === 0 && <p class="quiet">The two configurations are the same.</p>}
      {data && data.rows.length > 0 && (
        <div class="scroll" tabIndex={0} role="region" aria-label="Differing settings">
          <table class="difference">
            <thead>
              <tr>
                <th scope="col">Setting</th>
                <th scope="col">{run}</th>
                <th scope="col">{against}</th>
              </tr>
            </thead>
            <tbody>
              {data.rows.map((row) => (
                <tr key={row.key}>
                  <th scope="row">{row.key}</th>
                  {[0, 1].map((side) => (
                    <td key={side} class={row.values[side] == null ? "quiet" : ""}>
                      {row.values[side] == null ? "not set" : plain(row.values[side])}
                    </td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </section>
  );
}

function Stages({ stages }: { stages: RunDetail["stages"] }) {
  return (
    <section class="card" aria-labelledby="stages-title">
      <h2 id="stages-title">Stages</h2>
      <table class="ledger">
        <tbody>
          {stages.map((stage) => (
            <tr key={stage.name}>
              <th scope="row">{stage.name}</th>
              <td class="quiet">{stage.kind}</td>
              <td class="number">
                {stage.done != null && `${number(stage.done)}`}
                {stage.iterations != null && <span class="quiet"> of {number(stage.iterations)}</span>}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

/** Nested settings as nested lists. */
function Tree({ value }: { value: unknown }) {
  if (Array.isArray(value) && value.some((one) => typeof one === "object" && one !== null)) {
    return (
      <>
        {value.map((one, index) => (
          <Tree key={index} value={one} />
        ))}
      </>
    );
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    const text = Array.isArray(value) ? value.join(", ") || "none" : value === null ? "unknown" : plain(value);
    return <span>{text}</span>;
  }
  return (
    <dl class="tree">
      {Object.entries(value).map(([name, inner]) => (
        <div key={name}>
          <dt>{words(name)}</dt>
          <dd>
            <Tree value={inner} />
          </dd>
        </div>
      ))}
    </dl>
  );
}
