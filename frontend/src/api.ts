/** Asks the server, or the data of an export where the page is one. */

import { useEffect, useRef, useState } from "preact/hooks";
import { selectEpisodes } from "./select";
import type { DiffRow, Episode, EpisodePage, MetricRecord } from "./types";

declare global {
  interface Window {
    __EYAS_EXPORT__?: Record<string, unknown> & { note?: string };
  }
}

export type Query = Record<string, string | number | string[] | null | undefined>;

const POLL_MS = 4000;
const NOT_EXPORTED = "This is not part of the exported file.";

export const isExport = (): boolean => window.__EYAS_EXPORT__ !== undefined;

/** `path?name=value&...` with the names sorted and the empty ones left out: also the key of an answer in an export. */
export function address(path: string, query: Query = {}): string {
  const pairs = Object.keys(query)
    .sort()
    .flatMap((name) => {
      const value = query[name];
      const all = Array.isArray(value) ? value : [value];
      return all.filter((one) => one != null && one !== "").map((one) => `${name}=${encodeURIComponent(String(one))}`);
    });
  return pairs.length ? `${path}?${pairs.join("&")}` : path;
}

/** The answer. Throws an Error whose message says what was wrong. */
export async function ask<T>(path: string, query: Query = {}, signal?: AbortSignal): Promise<T> {
  if (window.__EYAS_EXPORT__) return fromExport<T>(window.__EYAS_EXPORT__, path, query);
  let response: Response;
  try {
    response = await fetch(address(path, query), { signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Error("The viewer does not answer. Is `eyas view` still running?");
  }
  const body = await response.json().catch(() => null);
  if (!response.ok) throw new Error(body?.error ?? `The viewer answered ${response.status} to ${path}`);
  return body as T;
}

/** Acts on a play. The header tells the server that its own page asks: another site's page cannot send it. */
export async function post<T>(path: string, body: unknown = {}): Promise<T> {
  const headers = { "Content-Type": "application/json", "X-Eyas-Play": "1" };
  let response: Response;
  try {
    response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
  } catch {
    throw new Error("The server does not answer. Is `eyas play` still running?");
  }
  const answer = await response.json().catch(() => null);
  if (!response.ok) throw new Error(answer?.error ?? `The server answered ${response.status} to ${path}`);
  return answer as T;
}

function fromExport<T>(data: Record<string, unknown>, path: string, query: Query): T {
  if (path === "/api/episodes") {
    const all = data[address(path, { run: query.run })] as EpisodePage | undefined;
    const text = String(query.text ?? "").toLowerCase();
    const thinks = (key: string) => {
      const episode = data[address("/api/episode", { run: query.run, key })] as Episode | undefined;
      return episode?.steps.some((step) => step.thought?.toLowerCase().includes(text)) ?? false;
    };
    if (all) return selectEpisodes(text ? all.rows.filter((row) => thinks(row.key)) : all.rows, query) as T;
  }
  if (path === "/api/diff") return exportedDifference(data, query.runs as string[]) as T;
  const { after: _after, ...rest } = query;
  const answer = data[address(path, rest)];
  if (answer === undefined) throw new Error(NOT_EXPORTED);
  return answer as T;
}

/** An export compares all of its runs at once: the columns of two are picked out. */
function exportedDifference(data: Record<string, unknown>, runs: string[]): { rows: DiffRow[] } {
  const key = Object.keys(data).find((name) => name.startsWith("/api/diff?"));
  const order = new URLSearchParams(key?.split("?")[1]).getAll("runs");
  const columns = runs.map((run) => order.indexOf(run));
  if (!key || columns.includes(-1)) throw new Error(NOT_EXPORTED);
  const rows = (data[key] as { rows: DiffRow[] }).rows.map((row) => ({ key: row.key, values: columns.map((at) => row.values[at]) }));
  return { rows: rows.filter((row) => JSON.stringify(row.values[0]) !== JSON.stringify(row.values[1])) };
}

export const PLAYED = "\0play"; // stands for a run where pictures are those of the play

/** Where a picture is: the export holds it whole, the server also as a thumbnail. */
export function imageAddress(run: string, hash: string, size?: number): string | undefined {
  if (run === PLAYED) return address("/api/play/image", { hash });
  const key = address("/api/image", { run, hash });
  if (window.__EYAS_EXPORT__) return window.__EYAS_EXPORT__[key] as string | undefined;
  return size ? address("/api/image", { run, hash, size }) : key;
}

export interface Answer<T> {
  data: T | null;
  error: string | null;
  isLoading: boolean;
}

/** Asks when path or query change, and again every few seconds where `isLive`. Keeps the last answer meanwhile. */
export function useAnswer<T>(path: string | null, query: Query = {}, isLive = false): Answer<T> {
  const key = path && address(path, query);
  const [answer, setAnswer] = useState<Answer<T> & { key: string | null }>({ data: null, error: null, isLoading: true, key: null });
  useEffect(() => {
    if (!path) return;
    const abort = new AbortController();
    const load = async () => {
      try {
        const data = await ask<T>(path, query, abort.signal);
        if (!abort.signal.aborted) setAnswer({ data, error: null, isLoading: false, key });
      } catch (error) {
        if (!abort.signal.aborted) setAnswer((old) => ({ ...old, error: (error as Error).message, isLoading: false, key }));
      }
    };
    void load();
    const timer = isLive && !isExport() ? setInterval(() => !document.hidden && void load(), POLL_MS) : 0;
    return () => {
      abort.abort();
      clearInterval(timer);
    };
  }, [key, isLive]);
  return { ...answer, isLoading: answer.isLoading || answer.key !== key };
}

/** The metrics of each run, followed live: only new lines are asked for. */
export function useMetrics(runs: string[], isLive: boolean): { records: Record<string, MetricRecord[]>; error: string | null; isLoading: boolean } {
  const kept = useRef<Record<string, Records>>({});
  const [error, setError] = useState<string | null>(null);
  const [, setRound] = useState(0);
  const key = runs.join("\n");
  useEffect(() => {
    const abort = new AbortController();
    const load = async () => {
      try {
        const draw = () => setRound((round) => round + 1);
        await Promise.all(runs.map((run) => follow(kept.current, run, abort.signal, draw)));
        if (!abort.signal.aborted) setError(null);
      } catch (failure) {
        if (!abort.signal.aborted) setError((failure as Error).message);
      }
    };
    void load();
    const timer = isLive && !isExport() ? setInterval(() => !document.hidden && void load(), POLL_MS) : 0;
    return () => {
      abort.abort();
      clearInterval(timer);
    };
  }, [key, isLive]);
  return { records: Object.fromEntries(runs.map((run) => [run, kept.current[run]?.records ?? []])), error, isLoading: runs.some((run) => !kept.current[run]) };
}

interface Records {
  records: MetricRecord[];
  next: number;
}

interface Grown extends Records {
  reset?: boolean; // the file was rewritten by a run that resumed: what was read before is void
}

/** Asks for what is new, answer after answer until there is no more, and draws each. */
async function follow(kept: Record<string, Records>, run: string, signal: AbortSignal, draw: () => void): Promise<void> {
  for (;;) {
    const old = kept[run];
    if (old && isExport()) return;
    const grown = await ask<Grown>("/api/metrics", { run, after: old?.next }, signal);
    if (signal.aborted) return;
    kept[run] = { records: old && !grown.reset ? [...old.records, ...grown.records] : grown.records, next: grown.next };
    if (old && grown.records.length === 0 && !grown.reset) return;
    draw();
  }
}
