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

/** Calls the command of a pressed key, unless a field or control that has the focus wants the key itself. */
export function useKeys(keys: Keys): void {
  const newest = useRef(keys);
  newest.current = keys;
  useEffect(() => {
    const press = (event: KeyboardEvent) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
      const target = event.target as Element;
      if (target.matches(OWN_KEYS) && !(target.matches("input[type=checkbox]") && event.key !== " ")) return;
      if (document.querySelector("dialog[open]") && event.key !== "?") return;
      if ((event.key === " " || event.key === "Enter") && target.matches(PRESSABLE)) return;
      const command = newest.current[event.key];
      if (!command) return;
      event.preventDefault();
      command();
    };
    window.addEventListener("keydown", press);
    return () => window.removeEventListener("keydown", press);
  }, []);
}

/** Moves the focus among the rows of the page's table. */
export function moveRow(by: number): void {
  const rows = [...document.querySelectorAll<HTMLElement>("[data-row]")];
  const current = rows.findIndex((row) => row.closest("tr")?.contains(document.activeElement));
  const next = current < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, current + by));
  rows[next]?.focus();
  rows[next]?.scrollIntoView({ block: "nearest" });
}
