/** From metric records to lines: the x axis, smoothing, and the seeds of one recipe as a mean with its range. */

import type { MetricRecord, Run } from "./types";

export type Axis = "iteration" | "num_env_steps" | "updates" | "time";
export const AXES: Record<Axis, string> = {
  iteration: "iteration",
  num_env_steps: "environment steps",
  updates: "updates",
  time: "time since the stage began",
};

export interface Line {
  x: number[];
  y: number[];
}

export interface Group {
  name: string;
  runs: Run[];
}

/** The recorded numbers of one metric in one stage. Updates and time count from the stage's first record. */
export function line(records: MetricRecord[], stage: string, metric: string, axis: Axis): Line {
  const own = records.filter((record) => record.stage === stage);
  const first = own[0];
  const result: Line = { x: [], y: [] };
  for (const record of own) {
    const x = first && position(record, first, axis);
    const y = record[metric];
    if (typeof x === "number" && typeof y === "number") {
      result.x.push(x);
      result.y.push(y);
    }
  }
  return result;
}

function position(record: MetricRecord, first: MetricRecord, axis: Axis): number | null {
  if (axis === "iteration") return record.iteration;
  if (axis === "time") return record.time_s - first.time_s;
  if (axis === "updates") return record.policy_version == null ? null : record.policy_version - (first.policy_version ?? 0);
  return typeof record.num_env_steps === "number" ? record.num_env_steps : null;
}

/** Exponential moving average without a bias at the start: the first value stays as it is. `weight` 0 changes nothing. */
export function smooth(values: number[], weight: number): number[] {
  if (weight <= 0) return values;
  let sum = 0;
  let mass = 0;
  return values.map((value) => {
    sum = weight * sum + (1 - weight) * value;
    mass = weight * mass + (1 - weight);
    return sum / mass;
  });
}

/** The value at x between two points of the line; null outside of it. */
export function at(of: Line, x: number): number | null {
  const last = of.x.length - 1;
  if (last < 0 || x < of.x[0]! || x > of.x[last]!) return null;
  let low = 0;
  let high = last;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (of.x[middle]! <= x) low = middle;
    else high = middle;
  }
  const [x0, x1, y0, y1] = [of.x[low]!, of.x[high]!, of.y[low]!, of.y[high]!];
  if (x === x1 || x0 === x1) return y1;
  return y0 + ((y1 - y0) * (x - x0)) / (x1 - x0);
}

export interface Band extends Line {
  low: number[];
  high: number[];
}

/** Mean and range over the lines, at every x that all of them reach: a mean over fewer would jump where one ends. */
export function band(lines: Line[]): Band {
  const result: Band = { x: [], y: [], low: [], high: [] };
  for (const x of [...new Set(lines.flatMap((one) => one.x))].sort((a, b) => a - b)) {
    const values = lines.map((one) => at(one, x)).filter((value) => value !== null);
    if (values.length < lines.length) continue;
    result.x.push(x);
    result.y.push(values.reduce((sum, value) => sum + value, 0) / values.length);
    result.low.push(Math.min(...values));
    result.high.push(Math.max(...values));
  }
  return result;
}

/** A run's name without its seed at the end: `numberline_ppo-2` with seed 2 is of the recipe `numberline_ppo`. */
export function recipeOf(run: Run): string {
  if (run.seed == null) return run.name;
  return run.name.replace(new RegExp(`[-_.]?(seed|s)?(?<![0-9])[-_.]?${run.seed}$`), "") || run.name;
}

/** Runs of the same recipe together, or each alone. */
export function groups(runs: Run[], isBySeed: boolean): Group[] {
  const found = new Map<string, Run[]>();
  for (const run of runs) {
    const key = isBySeed ? JSON.stringify([recipeOf(run), run.algorithm, run.env_ids]) : run.id;
    found.set(key, [...(found.get(key) ?? []), run]);
  }
  return [...found.values()].map((members) => ({
    name: members.length > 1 ? `${recipeOf(members[0]!)}, ${members.length} seeds` : label(members[0]!, runs),
    runs: members,
  }));
}

function label(run: Run, all: Run[]): string {
  return all.filter((other) => other.name === run.name).length > 1 ? run.id : run.name;
}

/** The metrics that any of the records hold as a number, in the order they first appear. */
export function metricNames(records: MetricRecord[][], stage: string): string[] {
  const names = new Set<string>();
  for (const record of records.flat()) {
    if (record.stage !== stage) continue;
    for (const [name, value] of Object.entries(record)) if (name.includes("/") && typeof value === "number") names.add(name);
  }
  return [...names];
}

const MAIN = [
  "rollout/strict_success_rate",
  "rollout/return_mean",
  "rollout/parse_rate",
  "rollout/recognition_accuracy",
  "rollout/thought_unique_share",
  "rollout/entropy_nats",
  "rollout/action_entropy_nats",
  "rollout/episode_length_steps",
  "train/kl_k3_sampling_policy",
  "train/explained_variance",
  "train/loss",
  "validation/loss",
  "validation/exact_match",
];

/** The few that a run is judged by first, then the others by area. */
export function byArea(names: string[]): [string, string[]][] {
  const main = MAIN.filter((name) => names.includes(name));
  const areas = new Map<string, string[]>([["main", main]]);
  for (const name of names.filter((one) => !main.includes(one))) {
    const area = name.split("/", 1)[0]!;
    areas.set(area, [...(areas.get(area) ?? []), name]);
  }
  return [...areas].filter(([, members]) => members.length > 0);
}

/** The stages in the records, in order. */
export function stagesOf(records: MetricRecord[][]): string[] {
  return [...new Set(records.flat().map((record) => record.stage))];
}

/** The stage to open with: reinforcement learning where there is some, else the longest. */
export function mainStage(records: MetricRecord[][]): string | null {
  const stages = stagesOf(records);
  const size = (stage: string) => records.flat().filter((record) => record.stage === stage).length;
  const learning = records.flat().find((record) => "train/policy_loss" in record)?.stage;
  return learning ?? stages.sort((a, b) => size(b) - size(a))[0] ?? null;
}
