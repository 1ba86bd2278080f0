/** A play as the page follows it: what was told last, and commands that are answered by what comes of them. */

import { useEffect, useRef, useState } from "preact/hooks";
import { ask, post } from "./api";
import type { Play } from "./types";

export const RESERVED = new Set([" ", "s", "a", "n", "r", "?"]);
const ARROWS: [string, RegExp][] = [
  ["ArrowLeft", /\bleft\b|\bwest\b/i],
  ["ArrowRight", /\bright\b|\beast\b/i],
  ["ArrowUp", /(?<!pick )\bup\b|\bforward\b|\bnorth\b/i],
  ["ArrowDown", /\bdown\b|\bback(ward)?\b|\bsouth\b/i],
];

/** The key of each action: its own sign where it is one, the arrow that only it names, else its number from 1 to 9. */
export function keysOf(actions: string[]): (string | null)[] {
  const keys = actions.map((name) => (name.length === 1 && !RESERVED.has(name) ? name : null));
  for (const [key, direction] of ARROWS) {
    const found = actions.flatMap((name, index) => (direction.test(name) ? [index] : []));
    if (found.length === 1 && keys[found[0]!] === null) keys[found[0]!] = key;
  }
  const taken = new Set(keys);
  return keys.map((key, index) => key ?? (index < 9 && !taken.has(String(index + 1)) ? String(index + 1) : null));
}

interface Answer {
  state: Play | null;
  problem?: string;
}

type Move = { do: "act"; step: number; action?: number; words?: string };
export type Command = { do: "begin"; seed?: number } | { do: "suggest" | "follow"; step: number; temperature: number } | Move;

export function usePlay() {
  const [play, setPlay] = useState<Play | null>(null);
  const [problem, setProblem] = useState<string | null>(null);
  const [waiting, setWaiting] = useState(0);
  const [isOffered, setOffered] = useState<boolean | null>(null);
  const flight = useRef<{ sent: number; shown: number; moves: number; questions: number; next: Move | null }>({ sent: 0, shown: 0, moves: 0, questions: 0, next: null });
  useEffect(() => {
    ask<{ is_offered: boolean; state: Play | null }>("/api/play")
      .then(({ is_offered, state }) => {
        setOffered(is_offered);
        setPlay(state ?? null);
        if (is_offered && !state) setProblem("Nothing is played: press Start again.");
      })
      .catch((error: Error) => setProblem(error.message));
  }, []);
  const send = async (path: string, command?: Command): Promise<void> => {
    const now = flight.current;
    const kind = command?.do === "suggest" ? "questions" : "moves";
    const turn = ++now.sent;
    now[kind] += 1;
    setWaiting((count) => count + 1);
    try {
      const { state, problem } = await post<Answer>(path, command);
      if (turn < now.shown) return; // a later one was answered first
      now.shown = turn;
      setPlay(state);
      setProblem(problem ?? state?.problem ?? null);
      const { next } = now;
      now.next = null;
      if (next && kind === "moves" && state?.seed != null && !state.end && !state.problem) void send("/api/play/do", { ...next, step: state.step });
    } catch (error) {
      setProblem((error as Error).message);
    } finally {
      now[kind] -= 1;
      setWaiting((count) => count - 1);
    }
  };
  /** A person need not wait for the model's answer; while an action is played, one more waits and the rest is left out. */
  const run = (command: Command): void => {
    const { moves, questions } = flight.current;
    if (moves === 0 && (questions === 0 || command.do !== "suggest")) void send("/api/play/do", command);
    else if (command.do === "act") flight.current.next = command;
  };
  return {
    play,
    problem,
    isOffered,
    isWaiting: waiting > 0,
    run,
    start: () => void send("/api/play/start"),
  };
}
