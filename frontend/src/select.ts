/** The server's selection of episodes over the rows of an export. */

import type { Query } from "./api";
import type { EpisodePage, EpisodeRow, Facets } from "./types";

const COLUMNS: Record<string, (row: EpisodeRow) => number> = {
  iteration: (row) => row.iteration,
  return: (row) => row.return ?? -Infinity,
  success: (row) => (row.success == null ? -1 : Number(row.success)),
  length: (row) => row.num_steps,
};

export function successName(success: boolean | null): string {
  return success == null ? "none" : String(success);
}

export function selectEpisodes(all: EpisodeRow[], query: Query): EpisodePage {
  const chosen = all.filter((row) => matches(row, query));
  const sort = String(query.sort ?? "-iteration");
  const column = COLUMNS[sort.replace(/^-/, "")] ?? COLUMNS.iteration!;
  const direction = sort.startsWith("-") ? -1 : 1;
  const rows = [...chosen].sort((a, b) => direction * Math.sign(column(a) - column(b)) || 0);
  const offset = Number(query.offset ?? 0);
  return { total: rows.length, rows: rows.slice(offset, offset + Number(query.limit ?? 100)), facets: facets(all, query) };
}

function matches(row: EpisodeRow, query: Query): boolean {
  const is = (name: string, value: unknown) => query[name] == null || query[name] === "" || String(query[name]) === String(value);
  const within = (name: string, value: number | null) => {
    const low = query[`${name}_min`];
    const high = query[`${name}_max`];
    return (low == null || low === "" || (value ?? NaN) >= Number(low)) && (high == null || high === "" || (value ?? NaN) <= Number(high));
  };
  return (
    is("stage", row.stage) &&
    is("env", row.env_id) &&
    is("task", row.task) &&
    is("stop_reason", row.stop_reason) &&
    is("success", successName(row.success)) &&
    is("has_parse_failure", row.parse_failures > 0) &&
    within("return", row.return) &&
    within("iteration", row.iteration)
  );
}

const FACETS: Record<string, (row: EpisodeRow) => string> = {
  stage: (row) => row.stage,
  stop_reason: (row) => row.stop_reason,
  success: (row) => successName(row.success),
  env_id: (row) => row.env_id,
  task: (row) => String(row.task),
};

/** How many episodes each value has under all filters but its column's own, so that other values can be offered. */
function facets(all: EpisodeRow[], query: Query): Facets {
  const counts: Facets = {};
  for (const [name, value] of Object.entries(FACETS)) {
    const others = { ...query, [name === "env_id" ? "env" : name]: undefined };
    const found: Record<string, number> = (counts[name] = {});
    for (const row of all) if (matches(row, others)) found[value(row)] = (found[value(row)] ?? 0) + 1;
  }
  return counts;
}
