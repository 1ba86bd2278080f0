/** Keyboard commands, and the list that "?" shows. */

import { useEffect, useRef } from "preact/hooks";

export type Keys = Record<string, () => void>;

export const HELP: [string, [string, string][]][] = [
  [
    "Everywhere",
    [
      ["1 – 6", "runs, curves, configuration, episodes, thoughts, evaluation (7: play)"],
      ["/", "go to the search field"],
      ["d", "light, dark, as the system"],
      ["?", "these keys"],
      ["Esc", "close, or leave a field"],
    ],
  ],
  [
    "Tables",
    [
      ["↑ ↓", "row before, next row"],
      ["Enter", "open the row"],
      ["x", "select the run for comparing"],
      ["c", "compare the selected runs"],
      ["[ ]", "page before, next page"],
    ],
  ],
  [
    "Episode",
    [
      ["← →", "step before, next step"],
      ["Home End", "first step, last step"],
      ["Space", "play and pause"],
      ["[ ]", "episode before, next episode of the list"],
      ["l", "the next colouring of the tokens"],
    ],
  ],
  [
    "Play",
    [
      ["1 – 9", "the action with this key on it"],
      ["← ↑ → ↓", "actions that name a direction"],
      ["Space", "the model plays by itself, and pauses"],
      ["s", "the model plays one step"],
      ["a", "ask the model again"],
      ["n r", "next episode, this one again"],
    ],
  ],
];

const OWN_KEYS = "input, select, textarea, [contenteditable]";
const PRESSABLE = "button, summary, a";

const KEPT_MS = 3000;
const held = new Set<{ current: Keys }>();
let early: { key: string; at: number }[] = []; // pressed before the view was there that knows them

window.addEventListener("hashchange", () => (early = []));
window.addEventListener("pointerdown", () => (early = []));
window.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  const target = event.target as Element;
  if (target.matches(OWN_KEYS) && !(target.matches("input[type=checkbox]") && event.key !== " ")) return;
  if (document.querySelector("dialog[open]") && event.key !== "?") return;
  if ((event.key === " " || event.key === "Enter") && target.matches(PRESSABLE)) return;
  const command = [...held].map((keys) => keys.current[event.key]).find((one) => one !== undefined);
  if (!command) return keep(event);
  event.preventDefault();
  command();
});

/** In a play a late action would be a wrong one, and what follows "/" belongs into the search field. */
function keep(event: KeyboardEvent): void {
  const isPlay = location.hash.startsWith("#/play");
  if (!isPlay && !event.repeat && early.at(-1)?.key !== "/") early.push({ key: event.key, at: event.timeStamp });
}

/**
 * Calls the command of a pressed key, unless a field or control that has the focus wants the key itself. A key that was
 * pressed while the view was still being read is not lost.
 */
export function useKeys(keys: Keys): void {
  const newest = useRef(keys);
  newest.current = keys;
  useEffect(() => {
    held.add(newest);
    return () => void held.delete(newest);
  }, []);
  useEffect(() => {
    const mine = early.filter(({ key }) => keys[key]);
    if (mine.length === 0) return;
    early = early.filter((one) => !mine.includes(one));
    for (const { key, at } of mine) if (performance.now() - at < KEPT_MS) newest.current[key]?.();
  });
}

/** The search field of the view, which "/" leads to. */
export function focusSearch(): void {
  document.querySelector<HTMLInputElement>("main input[type=search]")?.focus();
}

/** Moves the focus among the rows of the page's table. */
export function moveRow(by: number): void {
  const rows = [...document.querySelectorAll<HTMLElement>("[data-row]")];
  const current = rows.findIndex((row) => row.closest("tr")?.contains(document.activeElement));
  const next = current < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, current + by));
  rows[next]?.focus();
  rows[next]?.scrollIntoView({ block: "nearest" });
}
