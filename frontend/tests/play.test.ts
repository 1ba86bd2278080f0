import { expect, test } from "vitest";
import { hasNumbers, nextColouring, colouringOf, SCALES } from "../src/parts/tokens";
import { keysOf } from "../src/play";
import type { Token } from "../src/types";

test("an action that is one sign has that key, directions have arrows, the rest has its number", () => {
  expect(keysOf(["-", "+"])).toEqual(["-", "+"]);
  expect(keysOf(["left", "down", "right", "up"])).toEqual(["ArrowLeft", "ArrowDown", "ArrowRight", "ArrowUp"]);
  expect(keysOf(["turn left", "turn right", "move forward", "pick up", "toggle"])).toEqual(["ArrowLeft", "ArrowRight", "ArrowUp", "4", "5"]);
  expect(keysOf(["stand", "hit"])).toEqual(["1", "2"]);
});

test("a number that is an action's name is never the key of another one", () => {
  expect(keysOf(["2", "1", "10", "="])).toEqual(["2", "1", "3", "="]);
  expect(keysOf(["stay", "1"])).toEqual([null, "1"]);
});

test("a key of the play is no action's, and no key stands for two directions", () => {
  expect(keysOf(["s", "n"])).toEqual(["1", "2"]);
  expect(keysOf(["left foot", "left hand"])).toEqual(["1", "2"]);
});

const token = (more: Partial<Token>): Token => ({ text: "x", logprob: -1, is_thought: false, ...more });

test("a colouring without data is left out", () => {
  const plain = [token({})];
  expect(["logprob", "gap", "advantage", "ratio"].filter((name) => hasNumbers(plain, name as "gap"))).toEqual(["logprob"]);
  expect(nextColouring(plain, "logprob")).toBe("none");
  expect(nextColouring([token({ ratio: 1 })], "logprob")).toBe("ratio");
  expect(colouringOf("constructor")).toBe("logprob");
});

test("gap and ratio are shaded by their side and size", () => {
  const shade = (name: "gap" | "advantage" | "ratio", more: Partial<Token>) => SCALES[name].shade(SCALES[name].value(token(more))!);
  expect(shade("gap", { learner_logprob: -1 })).toBe("even");
  expect(shade("gap", { learner_logprob: -0.5 })).toBe("above-4");
  expect(shade("gap", { learner_logprob: -1.0005 })).toBe("below-1");
  expect(shade("ratio", { ratio: 1 })).toBe("even");
  expect(shade("ratio", { ratio: 1.3 })).toBe("above-3");
  expect(shade("ratio", { ratio: 1 / 1.3 })).toBe("below-3");
  expect(shade("advantage", { advantage: -3 })).toBe("below-4");
});
