/** The metrics of the chosen runs as small charts that share their pointer. */

import { useMemo } from "preact/hooks";
import { useMetrics } from "../api";
import { count, words } from "../format";
import { focusSearch, useKeys } from "../keys";
import { Chart, type Curve } from "../parts/chart";
import { Choose, Failure, State } from "../parts/common";
import { link, update, type Route } from "../route";
import { AXES, band, byArea, groups, line, mainStage, metricNames, recipeOf, smooth, stagesOf, type Axis, type Group, type Line } from "../series";
import type { MetricRecord, Run } from "../types";

type Records = Record<string, MetricRecord[]>;

export function Curves({ route, runs, all }: { route: Route; runs: Run[]; all: Run[] }) {
  const isLive = runs.some((run) => run.state === "running");
  const { records, error, isLoading } = useMetrics(
    runs.map((run) => run.id),
    isLive,
  );
  const lists = Object.values(records);
  const read = route.query;
  const stage = read.get("stage") ?? mainStage(lists) ?? "";
  const axis = (read.get("x") ?? "iteration") as Axis;
  const weight = Number(read.get("smooth") ?? 0);
  const search = read.get("metric") ?? "";
  const isBand = read.get("seeds") !== "apart";
  const isLog = read.get("scale") === "log";
  const set = update;
  useKeys({ "/": focusSearch });
  const found = useMemo(() => groups(runs, isBand), [runs, isBand]);
  const areas = byArea(metricNames(lists, stage).filter((name) => words(name).includes(words(search).toLowerCase())));
  const isFew = areas.reduce((sum, [, names]) => sum + names.length, 0) <= 12;
  const draw = (name: string) => (
    <Chart key={name} title={name} curves={curves(found, records, stage, name, axis, weight)} xLabel={AXES[axis]} isLog={isLog} isTime={axis === "time"} />
  );
  return (
    <>
      <div class="title">
        <h1>Curves</h1>
        {isLive && <State run={runs.find((run) => run.state === "running")!} />}
        <RunAdder route={route} runs={runs} all={all} />
      </div>
      <div class="controls">
        <Choose label="Stage" value={stage} options={stagesOf(lists).map((value) => ({ value, text: value }))} onChange={(value) => set({ stage: value })} />
        <Choose label="By" value={axis} options={Object.entries(AXES).map(([value, text]) => ({ value, text }))} onChange={(value) => set({ x: value === "iteration" ? null : value })} />
        <label class="field">
          <span>Smoothing</span>
          <input type="range" min={0} max={0.98} step={0.02} value={weight} onInput={(event) => set({ smooth: Number(event.currentTarget.value) || null })} />
          <output>{weight.toFixed(2)}</output>
        </label>
        <label class="check">
          <input type="checkbox" checked={isLog} onChange={() => set({ scale: isLog ? null : "log" })} /> log scale
        </label>
        <label class="check">
          <input type="checkbox" checked={isBand} onChange={() => set({ seeds: isBand ? "apart" : null })} /> seeds as a band
        </label>
        <input type="search" aria-label="Search metrics" placeholder="Search metrics" value={search} onInput={(event) => set({ metric: event.currentTarget.value })} />
      </div>
      <Legend route={route} found={found} runs={runs} />
      {error && <Failure error={error} />}
      {areas.map(([area, names], index) =>
        index === 0 || isFew ? (
          <section key={area} aria-label={area}>
            {index > 0 && <h2>{area}</h2>}
            <div class="charts">{names.map(draw)}</div>
          </section>
        ) : (
          <Area key={area} route={route} area={area} names={names} draw={draw} />
        ),
      )}
      {!error && areas.length === 0 && <p class="quiet">{isLoading ? "Reading the metrics…" : stage ? "No metric of this stage matches." : "No metrics yet."}</p>}
    </>
  );
}

function Area({ route, area, names, draw }: { route: Route; area: string; names: string[]; draw: (name: string) => preact.JSX.Element }) {
  const open = (route.query.get("open") ?? "").split(",").filter(Boolean);
  const isOpen = open.includes(area);
  const toggle = (event: Event) => {
    event.preventDefault();
    update({ open: (isOpen ? open.filter((one) => one !== area) : [...open, area]).join() });
  };
  return (
    <details open={isOpen}>
      <summary onClick={toggle}>
        <h2>{area}</h2> <span class="quiet">{count(names.length, "metric")}</span>
      </summary>
      {isOpen && <div class="charts">{names.map(draw)}</div>}
    </details>
  );
}

function Legend({ route, found, runs }: { route: Route; found: Group[]; runs: Run[] }) {
  const without = (members: Run[]) => {
    const query = new URLSearchParams(route.query);
    query.delete("run");
    for (const run of runs) if (!members.includes(run)) query.append("run", run.id);
    return link("curves", query);
  };
  return (
    <ul class="legend" aria-label="Runs in the charts">
      {found.map((group, index) => (
        <li key={group.name}>
          <span class="swatch" data-line={index % 8} />
          {group.name}
          {group.runs.length > 1 && <small class="inline"> mean and range</small>}
          {found.length > 1 && (
            <a class="drop" href={without(group.runs)} aria-label={`Take ${group.name} out`}>
              ×
            </a>
          )}
        </li>
      ))}
    </ul>
  );
}

function RunAdder({ route, runs, all }: { route: Route; runs: Run[]; all: Run[] }) {
  const others = all.filter((run) => !runs.includes(run));
  const siblings = others.filter((run) => runs.some((one) => recipeOf(one) === recipeOf(run)));
  const add = (added: Run[]) => {
    const query = new URLSearchParams(route.query);
    query.delete("run");
    for (const run of [...runs, ...added]) query.append("run", run.id);
    location.hash = link("curves", query);
  };
  if (others.length === 0) return null;
  return (
    <span class="end">
      {siblings.length > 0 && <button onClick={() => add(siblings)}>Add {count(siblings.length, "other seed")}</button>}
      <label>
        <span class="hidden">Add a run</span>
        <select value="" onChange={(event) => add(all.filter((run) => run.id === event.currentTarget.value))}>
          <option value="">Add a run…</option>
          {others.map((run) => (
            <option key={run.id} value={run.id}>
              {run.id}
            </option>
          ))}
        </select>
      </label>
    </span>
  );
}

function curves(found: Group[], records: Records, stage: string, metric: string, axis: Axis, weight: number): Curve[] {
  const smoothed = (run: Run): Line => {
    const raw = line(records[run.id] ?? [], stage, metric, axis);
    return { x: raw.x, y: smooth(raw.y, weight) };
  };
  return found.flatMap((group, colour) => {
    const lines = group.runs.map(smoothed);
    if (lines.length === 1) return [{ ...lines[0]!, name: group.name, colour }];
    const seeds = lines.map((one, index) => ({ ...one, name: group.runs[index]!.id, colour, isFaint: true }));
    const full = lines.filter((one) => one.x.length);
    return [...seeds, { ...band(full), name: group.name, colour }];
  });
}
