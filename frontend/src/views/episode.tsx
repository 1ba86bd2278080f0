/** One episode, step by step: what the model saw, what it said, what came of it. */

import { useEffect, useMemo, useState } from "preact/hooks";
import type { ViewProps } from "../app";
import { imageAddress, useAnswer } from "../api";
import { count, fixed, words } from "../format";
import { useKeys } from "../keys";
import { frame, prompts } from "../messages";
import { PlayCommand } from "../parts/command";
import { Choose, Failure, Success } from "../parts/common";
import { Outcome } from "../parts/outcome";
import { Said } from "../parts/said";
import { Saw } from "../parts/saw";
import { Strip, type Quantity } from "../parts/strip";
import { colouringOf, nextColouring, type Colouring } from "../parts/tokens";
import { changed, current, link, update, type Route } from "../route";
import type { Episode, EpisodePage, EpisodeRow, Message, Run, Step } from "../types";
import { filters } from "./episodes";

const SPEEDS = ["1", "2", "4", "8"];

export function EpisodeView({ route, run }: ViewProps) {
  const key = route.query.get("key") ?? "";
  const { data, error } = useAnswer<Episode>("/api/episode", { run: run.id, key });
  if (error) return <Failure error={error} />;
  if (!data) return <p class="quiet">Reading the episode…</p>;
  return <Loaded route={route} run={run} data={data} />;
}

function Loaded({ route, run, data }: { route: Route; run: Run; data: Episode }) {
  const { steps, episode } = data;
  const asked = route.query.get("step");
  const text = route.query.get("text")?.toLowerCase();
  const found = asked === null && text ? firstThought(steps, text) : steps.findIndex((step) => String(step.step) === asked);
  const index = found < 0 ? 0 : found;
  const go = (to: number) => {
    const next = steps[Math.min(steps.length - 1, Math.max(0, to))];
    if (next) update({ step: next.step });
  };
  const move = (by: number) => {
    const here = steps.findIndex((one) => String(one.step) === current("step"));
    go((here < 0 ? index : here) + by);
  };
  const film = useFilm(index, steps.length, go);
  const neighbours = useNeighbours(route, run.id, episode.key);
  const colouring = colouringOf(route.query.get("colour"));
  const setColouring = (to: Colouring) => update({ colour: to === "logprob" ? null : to });
  const [quantity, setQuantity] = useState<Quantity>("reward");
  const whole = useMemo(() => prompts(steps), [steps]);
  usePreload(run.id, whole, index);
  useKeys({
    ArrowLeft: () => move(-1),
    ArrowRight: () => move(1),
    Home: () => go(0),
    End: () => go(steps.length - 1),
    " ": film.toggle,
    ...(neighbours.before && { "[": () => (location.hash = neighbours.before!) }),
    ...(neighbours.after && { "]": () => (location.hash = neighbours.after!) }),
    l: () => setColouring(nextColouring(steps[index]?.tokens ?? [], colouring)),
  });
  const step = steps[index];
  return (
    <>
      <Title route={route} run={run} episode={episode} neighbours={neighbours} />
      {!step && <p class="quiet">This episode has no steps.</p>}
      {step && (
        <>
          <div class="transport">
            <button onClick={() => move(-1)} disabled={index === 0} aria-label="Step before">
              ‹
            </button>
            <button class="main play" onClick={film.toggle} aria-label={film.isPlaying ? "Pause" : "Play"}>
              {film.isPlaying ? "❚❚" : "▶"}
            </button>
            <button onClick={() => move(1)} disabled={index === steps.length - 1} aria-label="Next step">
              ›
            </button>
            <strong class="at">
              Step {step.step} <span class="quiet">of {steps.at(-1)!.step}</span>
            </strong>
            <Strip steps={steps} index={index} quantity={quantity} go={go} />
            <Choose label="Bars" value={quantity} options={["reward", "advantage", "value"]} onChange={(value) => setQuantity(value as Quantity)} />
            <Choose label="Speed" value={String(film.speed)} options={SPEEDS.map((value) => ({ value, text: `${value} / s` }))} onChange={(value) => film.setSpeed(Number(value))} />
          </div>
          <div class="step">
            <Saw run={run.id} prompt={whole[index]!} step={step} />
            <div class="column">
              <Said step={step} colouring={colouring} setColouring={setColouring} />
              <Outcome step={step} />
            </div>
          </div>
        </>
      )}
      <PlayCommand run={run.id} envs={[episode.env_id]} seed={episode.seed} />
    </>
  );
}

/** Where a search in the thoughts led to. */
function firstThought(steps: Step[], text: string): number {
  return steps.findIndex((step) => step.thought?.toLowerCase().includes(text));
}

function Title({ route, run, episode, neighbours }: { route: Route; run: Run; episode: EpisodeRow; neighbours: Neighbours }) {
  const query = new URLSearchParams(route.query);
  query.delete("key");
  query.delete("step");
  return (
    <>
      <div class="title">
        <h1>
          <a href={link("episodes", query)}>Episodes</a> <span class="quiet">/</span> {episode.key}
        </h1>
        <span class="end">
          <a class="button" aria-label="Episode before" aria-disabled={!neighbours.before} href={neighbours.before ?? undefined}>
            ‹ before
          </a>
          <a class="button" aria-label="Next episode" aria-disabled={!neighbours.after} href={neighbours.after ?? undefined}>
            next ›
          </a>
        </span>
      </div>
      <dl class="facts">
        <Fact name="Run">{run.id}</Fact>
        <Fact name="Environment">{episode.env_id}</Fact>
        <Fact name="Stage">
          {episode.stage}, iteration {episode.iteration}
        </Fact>
        <Fact name="Success">
          <Success success={episode.success} />
        </Fact>
        <Fact name="Return">{fixed(episode.return, 2)}</Fact>
        {episode.progress != null && <Fact name="Progress">{fixed(episode.progress, 2)}</Fact>}
        <Fact name="Stopped by">{words(episode.stop_reason)}</Fact>
        <Fact name="Parse failures">{episode.parse_failures}</Fact>
        <Fact name="Seed">{episode.seed}</Fact>
        {episode.first_step > 0 && <Fact name="Recorded from">{`step ${episode.first_step}: ${count(episode.first_step, "step")} in the rollout before`}</Fact>}
      </dl>
    </>
  );
}

function Fact({ name, children }: { name: string; children: preact.ComponentChildren }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}

/** Steps forward by itself, from the start again where it stands at the end. */
function useFilm(index: number, length: number, go: (index: number) => void) {
  const [isPlaying, setPlaying] = useState(false);
  const [speed, setSpeed] = useState(2);
  useEffect(() => {
    if (!isPlaying) return;
    if (index >= length - 1) {
      setPlaying(false);
      return;
    }
    const timer = setTimeout(() => go(index + 1), 1000 / speed);
    return () => clearTimeout(timer);
  }, [isPlaying, index, speed]);
  const toggle = () => {
    if (!isPlaying && index >= length - 1) go(0);
    setPlaying(!isPlaying);
  };
  return { isPlaying, toggle, speed, setSpeed };
}

interface Neighbours {
  before: string | null;
  after: string | null;
}

const AROUND = 100;

/** The episodes beside this one in the list it was opened from. */
function useNeighbours(route: Route, run: string, key: string): Neighbours {
  const page = Number(route.query.get("page") ?? 1);
  const offset = (page - 1) * AROUND;
  const { data } = useAnswer<EpisodePage>("/api/episodes", { ...filters(route.query), run, offset, limit: AROUND });
  const index = data?.rows.findIndex((row) => row.key === key) ?? -1;
  const to = (row: EpisodeRow | undefined) => (row ? changed(route, { key: row.key, step: null }) : null);
  return index < 0 ? { before: null, after: null } : { before: to(data!.rows[index - 1]), after: to(data!.rows[index + 1]) };
}

/** Fetches the pictures of the next steps, so that a film does not flicker. */
function usePreload(run: string, whole: Message[][], index: number): void {
  useEffect(() => {
    for (const prompt of whole.slice(index + 1, index + 4)) {
      const hash = frame(prompt);
      const source = hash && imageAddress(run, hash);
      if (source) new Image().src = source;
    }
  }, [run, whole, index]);
}
