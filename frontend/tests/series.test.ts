import { describe, expect, test } from "vitest";
import { at, band, byArea, groups, line, mainStage, recipeOf, smooth } from "../src/series";
import type { MetricRecord, Run } from "../src/types";

const records: MetricRecord[] = [
  { stage: "sft", iteration: 0, time_s: 100, policy_version: 1, "train/loss": 2 },
  { stage: "rl", iteration: 0, time_s: 200, policy_version: 10, num_env_steps: 64, "train/policy_loss": 0.5, "rollout/return_mean": 1 },
  { stage: "rl", iteration: 1, time_s: 230, policy_version: 14, num_env_steps: 128, "train/policy_loss": null, "rollout/return_mean": 3 },
];

const run = (name: string, seed: number | null): Run => ({ id: name, name, seed, algorithm: "ppo", env_ids: ["e"] }) as Run;

describe("line", () => {
  test("each axis counts from where the stage began, and only its stage is taken", () => {
    const x = (axis: "iteration" | "updates" | "time" | "num_env_steps") => line(records, "rl", "rollout/return_mean", axis).x;
    expect(x("iteration")).toEqual([0, 1]);
    expect(x("updates")).toEqual([0, 4]);
    expect(x("time")).toEqual([0, 30]);
    expect(x("num_env_steps")).toEqual([64, 128]);
  });
  test("a null is left out and not read as zero", () => {
    expect(line(records, "rl", "train/policy_loss", "iteration")).toEqual({ x: [0], y: [0.5] });
  });
});

describe("smooth", () => {
  test("a constant stays what it is from the first value on", () => {
    expect(smooth([5, 5, 5], 0.9).map((value) => Number(value.toFixed(12)))).toEqual([5, 5, 5]);
  });
  test("two values by hand: (0.5·0.5·0 + 0.5·3) / (0.25 + 0.5) = 2", () => {
    expect(smooth([0, 3], 0.5)).toEqual([0, 2]);
  });
  test("weight 0 changes nothing", () => {
    expect(smooth([1, 7, 2], 0)).toEqual([1, 7, 2]);
  });
});

describe("band", () => {
  test("a line has no value outside of its range and a straight one between its points", () => {
    const one = { x: [0, 10], y: [0, 100] };
    expect([at(one, -1), at(one, 0), at(one, 2.5), at(one, 10), at(one, 11)]).toEqual([null, 0, 25, 100, null]);
  });
  test("mean and range where both lines are, nothing where only one is", () => {
    const found = band([
      { x: [0, 2, 4], y: [0, 2, 4] },
      { x: [0, 4], y: [2, 10] },
      { x: [0, 2, 4, 6], y: [1, 1, 1, 1] },
    ]);
    expect(found.x).toEqual([0, 2, 4]);
    expect(found.y).toEqual([1, 3, 5]);
    expect(found.low).toEqual([0, 1, 1]);
    expect(found.high).toEqual([2, 6, 10]);
  });
});

describe("groups", () => {
  test("the seed is taken off the end of a name only where it is the run's seed", () => {
    expect(recipeOf(run("numberline_ppo-2", 2))).toBe("numberline_ppo");
    expect(recipeOf(run("maze-seed12", 12))).toBe("maze");
    expect(recipeOf(run("maze-12", 2))).toBe("maze-12");
    expect(recipeOf(run("maze-7", 3))).toBe("maze-7");
    expect(recipeOf(run("7", 7))).toBe("7");
  });
  test("seeds of one recipe are one group, apart they are one each", () => {
    const runs = [run("a-0", 0), run("a-1", 1), run("b-0", 0)];
    expect(groups(runs, true).map((group) => group.name)).toEqual(["a, 2 seeds", "b-0"]);
    expect(groups(runs, false)).toHaveLength(3);
  });
});

test("the stage to open with is the one that learns from rewards", () => {
  expect(mainStage([records])).toBe("rl");
  expect(mainStage([records.slice(0, 1)])).toBe("sft");
  expect(mainStage([[]])).toBeNull();
});

test("the metrics a run is judged by come first", () => {
  expect(byArea(["time/update_s", "train/grad_norm", "rollout/return_mean"])).toEqual([
    ["main", ["rollout/return_mean"]],
    ["time", ["time/update_s"]],
    ["train", ["train/grad_norm"]],
  ]);
});
