/** All runs: state, progress and the numbers that they are judged by. */

import { useState } from "preact/hooks";
import { ago, duration, fixed, percent, percentInterval } from "../format";
import { focusSearch, moveRow, useKeys } from "../keys";
import { Notes, State } from "../parts/common";
import { link, parse, replace, type Route } from "../route";
import type { EvalSummary, Run, RunList } from "../types";

type Column = "name" | "env" | "updated" | "success" | "return" | "eval";

const COLUMNS: [Column, string, string][] = [
  ["name", "Run", ""],
  ["env", "Environment", ""],
  ["updated", "Updated", ""],
  ["success", "Strict success", "number"],
  ["return", "Return", "number"],
  ["eval", "Evaluated", "number"],
];

export function Runs({ route, list }: { route: Route; list: RunList }) {
  const [search, setSearch] = useState("");
  const [sort, setSort] = useState<{ column: Column; isDown: boolean }>({ column: "updated", isDown: true });
  const selected = route.query.getAll("run");
  const shown = sorted(list.runs.filter((run) => matches(run, search)), sort.column, sort.isDown);
  const toggle = (id: string) => {
    const now = parse(location.hash).query.getAll("run");
    select(now.includes(id) ? now.filter((one) => one !== id) : [...now, id]);
  };
  const compare = () => selected.length && (location.hash = link("curves", { run: selected }));
  useKeys({ "/": focusSearch, ArrowDown: () => moveRow(1), ArrowUp: () => moveRow(-1), x: () => toggleFocused(toggle), c: compare });
  const all = shown.length > 0 && shown.every((run) => selected.includes(run.id));
  return (
    <>
      <div class="title">
        <h1>Runs</h1>
        <input type="search" aria-label="Search runs" placeholder="Search" value={search} onInput={(event) => setSearch(event.currentTarget.value)} />
        <span class="end">
          {selected.length > 0 && (
            <button class="bare" onClick={() => select([])}>
              Clear
            </button>
          )}
          <button class="main" disabled={selected.length === 0} onClick={compare}>
            Compare {selected.length || ""}
          </button>
        </span>
      </div>
      <Notes notes={list.notes} />
      <div class="scroll" tabIndex={0} role="region" aria-label="Table of runs">
        <table class="runs">
          <thead>
            <tr>
              <th class="tick">
                <input type="checkbox" aria-label="Select all" checked={all} onChange={() => select(all ? [] : shown.map((run) => run.id))} />
              </th>
              {COLUMNS.map(([column, name, kind]) => (
                <th key={column} class={kind} aria-sort={sort.column === column ? (sort.isDown ? "descending" : "ascending") : undefined}>
                  <button class="sort" onClick={() => setSort({ column, isDown: sort.column === column ? !sort.isDown : kind === "number" })}>
                    {name}
                  </button>
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {shown.map((run) => (
              <Row key={run.id} run={run} isSelected={selected.includes(run.id)} toggle={toggle} />
            ))}
          </tbody>
        </table>
      </div>
      {shown.length === 0 && <p class="quiet">{list.runs.length ? "No run matches." : "There is no run in the folders that are shown."}</p>}
      <p class="quiet small">Strict success and return: last iteration of training. Evaluated: strict success of the trained policy with its 95 % interval.</p>
    </>
  );
}

function Row({ run, isSelected, toggle }: { run: Run; isSelected: boolean; toggle: (id: string) => void }) {
  const best = judged(run);
  return (
    <tr class={isSelected ? "selected" : ""}>
      <td class="tick">
        <input type="checkbox" aria-label={`Select ${run.id}`} checked={isSelected} onChange={() => toggle(run.id)} />
      </td>
      <th scope="row">
        <a data-row={run.id} href={link("curves", { run: run.id })}>
          {run.name}
        </a>
        <small>
          {run.algorithm ?? "no training"}
          {run.seed != null && ` · seed ${run.seed}`}
          {run.id !== run.name && ` · ${run.id}`}
        </small>
      </th>
      <td>
        {run.env_ids.map((env) => (
          <div key={env}>{env}</div>
        ))}
        <small>
          <a href={link("episodes", { run: run.id })}>episodes</a> · <a href={link("evaluation", { run: run.id })}>evaluation</a>
        </small>
      </td>
      <td>
        <State run={run} /> <span title={run.updated ? new Date(run.updated * 1000).toLocaleString() : ""}>{ago(run.updated)}</span>
        {run.state !== "finished" && (
          <div class="progress">
            <progress max={1} value={run.progress} aria-label={`Progress of ${run.name}`} /> <small class="inline">
              {percent(run.progress)} · {run.stage}
            </small>
          </div>
        )}
        {run.state === "running" && run.seconds_left != null && <small>{duration(run.seconds_left)} left of this stage</small>}
        {run.state !== "running" && run.started != null && run.updated != null && <small>ran {duration(run.updated - run.started)}</small>}
      </td>
      <td class="number">{percent(run.main.strict_success_rate)}</td>
      <td class="number">{fixed(run.main.return_mean, 2)}</td>
      <td class="number">
        {percent(best?.strict_success_rate)}
        {best && (
          <small title={`${best.policy}, ${best.decoding}`}>
            {percentInterval(best.strict_success_interval)} · {best.decoding} · return {fixed(best.return_mean, 2)}
          </small>
        )}
      </td>
    </tr>
  );
}

/** The evaluation row that stands for the run: the trained policy, greedy where there is that. */
export function judged(run: Run): EvalSummary | undefined {
  const rows = run.main.eval ?? [];
  const own = ["rl", "sft_continued", "sft"].map((policy) => rows.filter((row) => row.policy === policy)).find((found) => found.length);
  return own?.find((row) => row.decoding === "greedy") ?? own?.[0];
}

function matches(run: Run, search: string): boolean {
  const text = [run.id, run.name, run.algorithm, run.state, ...run.env_ids].join(" ").toLowerCase();
  return search.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

const VALUES: Record<Column, (run: Run) => string | number | null | undefined> = {
  name: (run) => run.name,
  env: (run) => run.env_ids.join(),
  updated: (run) => run.updated,
  success: (run) => run.main.strict_success_rate,
  return: (run) => run.main.return_mean,
  eval: (run) => judged(run)?.strict_success_rate,
};

function sorted(runs: Run[], column: Column, isDown: boolean): Run[] {
  return [...runs].sort((one, other) => {
    const [a, b] = [VALUES[column](one), VALUES[column](other)];
    if (a == null || b == null) return Number(a == null) - Number(b == null);
    const order = typeof a === "string" ? a.localeCompare(String(b), "en", { numeric: true }) : a - Number(b);
    return isDown ? -order : order;
  });
}

function select(ids: string[]): void {
  replace(link("runs", { run: ids }));
}

function toggleFocused(toggle: (id: string) => void): void {
  const row = document.activeElement?.closest("tr")?.querySelector<HTMLElement>("[data-row]");
  if (row?.dataset.row) toggle(row.dataset.row);
}
