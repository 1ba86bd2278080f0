import { afterEach, beforeAll, expect, test, vi } from "vitest";
import { address, ask } from "../src/api";
import { selectEpisodes } from "../src/select";
import type { EpisodePage, EpisodeRow } from "../src/types";

const row = (index: number, changes: Partial<EpisodeRow>): EpisodeRow => ({
  key: `rl_000000:${index}`,
  stage: "rl",
  iteration: index,
  env_id: "e",
  task: 0,
  episode: index,
  seed: 1,
  num_steps: 3,
  first_step: 0,
  return: index,
  success: index % 2 === 0,
  progress: null,
  stop_reason: "terminated",
  parse_failures: 0,
  thumbnail: null,
  ...changes,
});
const rows = [row(0, {}), row(1, { success: null }), row(2, { stage: "sft", parse_failures: 2 }), row(3, { return: null })];
const keys = (query: Record<string, string | number>) => selectEpisodes(rows, query).rows.map((one) => one.episode);

beforeAll(() => vi.stubGlobal("window", {}));
afterEach(() => vi.stubGlobal("window", {}));

test("every filter keeps exactly its episodes, newest iteration first", () => {
  expect(keys({})).toEqual([3, 2, 1, 0]);
  expect(keys({ stage: "rl" })).toEqual([3, 1, 0]);
  expect(keys({ success: "none" })).toEqual([1]);
  expect(keys({ success: "false" })).toEqual([3]);
  expect(keys({ has_parse_failure: "true" })).toEqual([2]);
  expect(keys({ has_parse_failure: "false" })).toEqual([3, 1, 0]);
  expect(keys({ iteration_min: 1, iteration_max: 2 })).toEqual([2, 1]);
});

test("a range takes no episode whose value is unknown", () => {
  expect(keys({ return_min: -100 })).toEqual([2, 1, 0]);
});

test("sorting by a column and its reverse, page by page", () => {
  expect(keys({ sort: "return" })).toEqual([3, 0, 1, 2]);
  expect(keys({ sort: "-return", limit: 2 })).toEqual([2, 1]);
  expect(keys({ sort: "-return", limit: 2, offset: 2 })).toEqual([0, 3]);
});

test("a facet is counted without its own filter and with the others", () => {
  const { facets } = selectEpisodes(rows, { stage: "rl", success: "true" });
  expect(facets.stage).toEqual({ rl: 1, sft: 1 });
  expect(facets.success).toEqual({ true: 1, none: 1, false: 1 });
});

test("an address has its names sorted, its values encoded and no empty names", () => {
  expect(address("/api/episodes", { text: "a b&c", run: "x/y", stage: "", limit: 0, after: null })).toBe("/api/episodes?limit=0&run=x%2Fy&text=a%20b%26c");
});

test("an export answers from its data, searches thoughts, and says what it does not hold", async () => {
  const steps = (thought: string) => ({ steps: [{ thought }] });
  vi.stubGlobal("window", {
    __EYAS_EXPORT__: {
      "/api/episodes?run=r": { rows, total: 4, facets: {} },
      "/api/episode?key=rl_000000%3A0&run=r": steps("I turn LEFT"),
      "/api/episode?key=rl_000000%3A1&run=r": steps("right"),
      "/api/diff?runs=r&runs=s&runs=t": { rows: [{ key: "seed", values: [0, 0, 1] }] },
    },
  });
  const found = await ask<EpisodePage>("/api/episodes", { run: "r", text: "left", limit: 10 });
  expect(found.rows.map((one) => one.episode)).toEqual([0]);
  expect(await ask("/api/diff", { runs: ["t", "r"] })).toEqual({ rows: [{ key: "seed", values: [1, 0] }] });
  expect(await ask("/api/diff", { runs: ["r", "s"] })).toEqual({ rows: [] });
  await expect(ask("/api/run", { run: "r" })).rejects.toThrow("not part of the exported file");
});
