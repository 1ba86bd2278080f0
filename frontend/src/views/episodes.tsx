/** The episodes of a run: every filter stands in the address, the table is asked for page by page. */

import { useEffect, useRef, useState } from "preact/hooks";
import type { ViewProps } from "../app";
import { useAnswer } from "../api";
import { count, fixed, words } from "../format";
import { focusSearch, moveRow, useKeys } from "../keys";
import { Choose, Failure, Notes, Picture, RunTitle, Success } from "../parts/common";
import { current, link, replace, update, type Changes, type Route } from "../route";
import type { EpisodePage, EpisodeRow, Facets } from "../types";

export const PAGE = 100;
const FILTERS = ["text", "stage", "task", "env", "success", "stop_reason", "return_min", "return_max", "iteration_min", "iteration_max", "has_parse_failure"];
const SUCCESS: Record<string, string> = { true: "success", false: "no success", none: "not defined" };

/** What the server is asked for by the filters in the address. */
export function filters(query: URLSearchParams): Record<string, string> {
  return Object.fromEntries(["run", "sort", ...FILTERS].flatMap((name) => (query.get(name) ? [[name, query.get(name)!]] : [])));
}

export function Episodes({ route, run, all }: ViewProps) {
  const query = route.query;
  const page = Number(query.get("page") ?? 1);
  const isLive = run.state === "running";
  const asked = { ...filters(query), run: run.id, offset: (page - 1) * PAGE, limit: PAGE };
  const { data, error, isLoading } = useAnswer<EpisodePage>("/api/episodes", asked, isLive);
  const set = (changes: Changes) => update({ page: null, ...changes });
  const pages = Math.max(1, Math.ceil((data?.total ?? 0) / PAGE));
  const turn = (by: number) => update({ page: Math.min(pages, Math.max(1, Number(current("page") ?? 1) + by)) });
  useKeys({ "/": focusSearch, ...(data && { ArrowDown: () => moveRow(1), ArrowUp: () => moveRow(-1), "[": () => turn(-1), "]": () => turn(1) }) });
  const hasFilter = FILTERS.some((name) => query.has(name));
  const whole = useAnswer<EpisodePage>(hasFilter ? "/api/episodes" : null, { run: run.id, limit: 1 }, isLive);
  return (
    <>
      <RunTitle title="Episodes" route={route} run={run} all={all} />
      <Notes notes={data?.notes} />
      <FilterBar query={query} facets={data?.facets ?? {}} set={set} />
      <div class="count" role="status">
        {data && <strong>{count(data.total, "episode")}</strong>}
        {hasFilter && (
          <>
            {whole.data && <span class="quiet"> of {whole.data.total.toLocaleString("en")}</span>}{" "}
            <button class="bare" onClick={() => replace(link("episodes", { run: run.id }))}>
              Clear filters
            </button>
          </>
        )}
        <Pager page={page} pages={pages} turn={turn} />
      </div>
      {error && <Failure error={error} />}
      {data && data.rows.length > 0 && <Table route={route} run={run.id} rows={data.rows} isStale={isLoading} set={set} />}
      {data?.total === 0 && <p class="quiet">{hasFilter ? "No episode matches these filters." : "No episode has been recorded yet."}</p>}
      {pages > 1 && data && data.rows.length > 20 && (
        <div class="count">
          <Pager page={page} pages={pages} turn={turn} />
        </div>
      )}
    </>
  );
}

function FilterBar({ query, facets, set }: { query: URLSearchParams; facets: Facets; set: (changes: Changes) => void }) {
  const value = (name: string) => query.get(name) ?? "";
  const facet = (name: string, texts: Record<string, string> = {}) => {
    const counts = { ...(value(name) && { [value(name)]: 0 }), ...facets[name] }; // the chosen value stays, even where nothing is left of it
    return Object.entries(counts).map(([key, number]) => ({ value: key, text: `${texts[key] ?? words(key)} (${number.toLocaleString("en")})` }));
  };
  return (
    <form class="controls" role="search" onSubmit={(event) => event.preventDefault()}>
      <Typed label="Search in thoughts" type="search" value={value("text")} onChange={(text) => set({ text })} />
      <Choose label="Stage" any="any" value={value("stage")} options={facet("stage")} onChange={(stage) => set({ stage })} />
      {(Object.keys(facets.env_id ?? {}).length > 1 || query.has("env")) && (
        <Choose label="Environment" any="any" value={value("env")} options={facet("env_id")} onChange={(env) => set({ env })} />
      )}
      <Choose label="Success" any="any" value={value("success")} options={facet("success", SUCCESS)} onChange={(success) => set({ success })} />
      <Choose label="Stopped by" any="any" value={value("stop_reason")} options={facet("stop_reason")} onChange={(stop_reason) => set({ stop_reason })} />
      <Choose
        label="Parse failures"
        any="any"
        value={value("has_parse_failure")}
        options={[
          { value: "true", text: "some" },
          { value: "false", text: "none" },
        ]}
        onChange={(has_parse_failure) => set({ has_parse_failure })}
      />
      <Span name="return" title="Return" low={value("return_min")} high={value("return_max")} set={set} />
      <Span name="iteration" title="Iteration" low={value("iteration_min")} high={value("iteration_max")} set={set} />
      {(Object.keys(facets.task ?? {}).length > 1 || query.has("task")) && (
        <Choose label="Task" any="any" value={value("task")} options={facet("task")} onChange={(task) => set({ task })} />
      )}
    </form>
  );
}

function Span({ name, title, low, high, set }: { name: string; title: string; low: string; high: string; set: (changes: Changes) => void }) {
  return (
    <fieldset class="span">
      <legend>{title}</legend>
      <Typed label={`${title} at least`} isBare type="number" value={low} placeholder="from" onChange={(value) => set({ [`${name}_min`]: value })} />
      <Typed label={`${title} at most`} isBare type="number" value={high} placeholder="to" onChange={(value) => set({ [`${name}_max`]: value })} />
    </fieldset>
  );
}

/** A field that speaks up when typing pauses, so that not every letter is a question to the server. */
function Typed({ label, type, value, placeholder, isBare, onChange }: { label: string; type: "search" | "number"; value: string; placeholder?: string; isBare?: boolean; onChange: (value: string) => void }) {
  const [text, setText] = useState(value);
  const said = useRef(value);
  useEffect(() => {
    if (value === said.current) return; // our own word coming back: more may have been typed since
    said.current = value;
    setText(value);
  }, [value]);
  useEffect(() => {
    if (text.trim() === said.current) return;
    const timer = setTimeout(() => {
      said.current = text.trim();
      onChange(said.current);
    }, 250);
    return () => clearTimeout(timer);
  }, [text]);
  const field = { value: text, placeholder, onInput: (event: { currentTarget: HTMLInputElement }) => setText(event.currentTarget.value) };
  return (
    <label class="field">
      <span class={isBare ? "hidden" : ""}>{label}</span>
      {type === "number" ? <input type="number" step="any" {...field} /> : <input type="search" {...field} />}
    </label>
  );
}

function Pager({ page, pages, turn }: { page: number; pages: number; turn: (by: number) => void }) {
  if (pages < 2) return null;
  return (
    <span class="end pager">
      <button onClick={() => turn(-1)} disabled={page <= 1} aria-label="Page before">
        ‹
      </button>
      <span>
        {page.toLocaleString("en")} of {pages.toLocaleString("en")}
      </span>
      <button onClick={() => turn(1)} disabled={page >= pages} aria-label="Next page">
        ›
      </button>
    </span>
  );
}

const HEAD: [string, string | null, string][] = [
  ["Episode", null, ""],
  ["Stage", null, ""],
  ["Iteration", "iteration", "number"],
  ["Success", "success", ""],
  ["Return", "return", "number"],
  ["Progress", null, "number"],
  ["Steps", "length", "number"],
  ["Stopped by", null, ""],
  ["Parse failures", null, "number"],
  ["Seed", null, "number"],
];

function Table({ route, run, rows, isStale, set }: { route: Route; run: string; rows: EpisodeRow[]; isStale: boolean; set: (changes: Changes) => void }) {
  const sort = route.query.get("sort") ?? "-iteration";
  const sortBy = (column: string) => set({ sort: sort === `-${column}` ? column : `-${column}` });
  const order = (column: string | null) => (column && sort.replace("-", "") === column ? (sort.startsWith("-") ? "descending" : "ascending") : undefined);
  const pictures = rows.some((row) => row.thumbnail);
  const envs = new Set(rows.map((row) => row.env_id)).size > 1;
  return (
    <div class={`scroll ${isStale ? "stale" : ""}`} tabIndex={0} role="region" aria-label="Table of episodes">
      <table class="episodes">
        <thead>
          <tr>
            {pictures && (
              <th>
                <span class="hidden">Picture</span>
              </th>
            )}
            {HEAD.map(([name, column, kind]) => (
              <th key={name} class={kind} aria-sort={order(column)}>
                {column ? (
                  <button class="sort" onClick={() => sortBy(column)}>
                    {name}
                  </button>
                ) : (
                  name
                )}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <Row key={row.key} route={route} run={run} row={row} hasPictures={pictures} hasEnv={envs} />
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Row({ route, run, row, hasPictures, hasEnv }: { route: Route; run: string; row: EpisodeRow; hasPictures: boolean; hasEnv: boolean }) {
  const query = new URLSearchParams(route.query);
  query.set("run", run);
  query.set("key", row.key);
  const open = link("episode", query);
  return (
    <tr onClick={(event) => !(event.target as Element).closest("a") && (location.hash = open)}>
      {hasPictures && <td class="thumb">{row.thumbnail && <Picture run={run} hash={row.thumbnail} size={96} width={36} height={36} alt="" />}</td>}
      <th scope="row">
        <a data-row={row.key} href={open}>
          {row.key}
        </a>
        {hasEnv && <small>{row.env_id}</small>}
      </th>
      <td>{row.stage}</td>
      <td class="number">{row.iteration}</td>
      <td>
        <Success success={row.success} />
      </td>
      <td class="number">{fixed(row.return, 2)}</td>
      <td class="number">{fixed(row.progress, 2)}</td>
      <td class="number">
        {row.num_steps}
        {row.first_step > 0 && <small class="inline"> from {row.first_step}</small>}
      </td>
      <td>{words(row.stop_reason)}</td>
      <td class={`number ${row.parse_failures ? "bad" : "quiet"}`}>{row.parse_failures}</td>
      <td class="number quiet">{row.seed}</td>
    </tr>
  );
}
