import { expect, test } from "vitest";
import { ago, duration, fixed, number, percent, signed, warning } from "../src/format";
import { frame, prompts, surprise } from "../src/messages";
import { parse } from "../src/route";
import { pieces } from "../src/toml";
import type { Message, Step } from "../src/types";

const says = (text: string): Message => ({ role: "user", parts: [{ text }] });
const shows = (image: string): Message => ({ role: "user", parts: [{ text: "look" }, { image }] });
const step = (prefix_messages: number, messages: Message[]) => ({ prefix_messages, messages }) as Step;

test("a prompt is what it shares with the one before and what it adds", () => {
  const [a, b, c, d] = [says("rules"), shows("1"), shows("2"), says("other")];
  expect(prompts([step(0, [a, b]), step(2, [c]), step(1, [d])])).toEqual([[a, b], [a, b, c], [a, d]]);
});

test("the frame is the newest picture, and none where there is none", () => {
  expect(frame([shows("1"), says("x"), shows("2"), says("y")])).toBe("2");
  expect(frame([says("x")])).toBeNull();
});

test("a token is the more surprising the less likely it was", () => {
  expect([-0.01, -0.2, -1, -2, -4, -9, -20].map(surprise)).toEqual([0, 1, 2, 3, 4, 5, 6]);
  expect(surprise(null)).toBe(0);
});

test("unknown numbers are never shown as zero", () => {
  for (const write of [number, signed, percent, (value: unknown) => fixed(value, 2)]) {
    expect(write(null)).toBe("–");
    expect(write(NaN)).toBe("–");
    expect(write(undefined)).toBe("–");
  }
});

test("numbers read well", () => {
  expect(number(-0.000012)).toBe("−1.20e−5");
  expect(number(0.123456)).toBe("0.1235");
  expect(signed(2)).toBe("+2");
  expect(fixed(-0.001, 2)).toBe("0.00");
  expect(percent(0.985, 1)).toBe("98.5 %");
  expect(duration(59)).toBe("59 s");
  expect(duration(3600)).toBe("1 h 00 min");
  expect(duration(7199)).toBe("2 h 00 min");
  expect(duration(3 * 86400)).toBe("3 d");
  expect(ago(1000, 1003)).toBe("now");
});

test("coloured TOML joins to the text it was", () => {
  for (const line of ["[[stages]]", 'name = "a = [b]"', "lr = 0.001", "# note", "betas = [", "    0.9,", "]", ""]) {
    expect(pieces(line).map((piece) => piece.text).join("")).toBe(line);
  }
  expect(pieces("[tasks.interface]")[0]!.kind).toBe("table");
  expect(pieces('name = "x"').map((piece) => piece.kind)).toEqual(["plain", "key", "plain", "text"]);
});

test("an address without a view is the list of runs", () => {
  expect(parse("").view).toBe("runs");
  expect(parse("#/episode?run=a%2Fb&step=3").query.get("run")).toBe("a/b");
});

test("a warning is its name, its likely cause and what to try", () => {
  const said = warning("length: completions grow: they are cut. Try a larger `interface.max_new_tokens`");
  expect(said).toEqual({ name: "length", cause: "completions grow: they are cut.", remedy: "Try a larger `interface.max_new_tokens`" });
  expect(warning("something else")).toEqual({ name: "", cause: "something else", remedy: "" });
});
