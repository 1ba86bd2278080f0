/** A small line chart on uPlot: lines, bands, a readout under the pointer. */

import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { duration, number } from "../format";
import { useTheme } from "../theme";
import { at, type Line } from "../series";

export interface Curve extends Line {
  name: string;
  colour: number; // index in the palette
  low?: number[];
  high?: number[];
  isFaint?: boolean; // one seed behind its mean: drawn thin, not read out
}

interface Props {
  title: string;
  curves: Curve[];
  xLabel: string;
  xRange?: [number, number]; // what all charts of a page span, also those with fewer points
  isLog?: boolean;
  isTime?: boolean;
  marked?: number | null;
  flagged?: number[]; // points that something is said of elsewhere
  onPick?: (x: number) => void;
  height?: number;
}

export const PALETTE_SIZE = 8;

export function Chart(props: Props) {
  const { title, curves, xLabel, height = 170 } = props;
  const holder = useRef<HTMLDivElement>(null);
  const readout = useRef<HTMLDivElement>(null);
  const theme = useTheme();
  const shown = curves.filter((curve) => curve.x.length > 0);
  useEffect(() => {
    const element = holder.current;
    if (!element || shown.length === 0) return;
    const plot = new uPlot(options(element, readout.current!, shown, props, height), table(shown, props.xRange, props.isLog), element);
    const resize = new ResizeObserver(() => plot.setSize({ width: element.clientWidth, height }));
    resize.observe(element);
    return () => {
      resize.disconnect();
      plot.destroy();
    };
  }, [signature(shown), theme, props.isLog, props.isTime, props.marked, props.flagged?.join(), props.xRange?.join(), props.onPick === undefined]);
  const last = shown.filter((curve) => !curve.isFaint).map((curve) => `${curve.name} ${number(curve.y.at(-1))}`);
  return (
    <figure class="chart">
      <figcaption>{title}</figcaption>
      {shown.length === 0 ? (
        <p class="quiet">no numbers</p>
      ) : (
        <div ref={holder} role="img" aria-label={`${title} by ${xLabel}. Last: ${last.join(", ")}`} />
      )}
      <div ref={readout} class="readout" hidden />
    </figure>
  );
}

const COUNTS = Array.from({ length: 12 }, (_, power) => [1, 2, 5].map((factor) => factor * 10 ** power)).flat();
const SECONDS = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 43200, 86400, 172800, 604800];

function signature(curves: Curve[]): string {
  return curves.map((c) => [c.name, c.colour, c.isFaint, c.x.length, c.x.at(-1), c.y.at(-1), c.y[c.y.length >> 1]].join()).join(";");
}

/** uPlot wants one x for all: the union, with null where a line has no point (the line goes on across it). */
function table(curves: Curve[], ends: number[] = [], isLog = false): uPlot.AlignedData {
  const x = [...new Set([...curves.flatMap((curve) => curve.x), ...ends])].sort((a, b) => a - b);
  const columns: (number | null | undefined)[][] = [];
  for (const curve of curves) {
    const place = new Map(curve.x.map((value, index) => [value, index]));
    for (const values of [curve.y, curve.low, curve.high]) {
      if (!values) continue;
      columns.push(
        x.map((value) => {
          const found = values[place.get(value) ?? -1];
          return isLog && found !== undefined && found <= 0 ? null : found;
        }),
      );
    }
  }
  return [x, ...columns] as uPlot.AlignedData;
}

function colour(index: number): string {
  return css(`--line-${index % PALETTE_SIZE}`);
}

function css(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function series(curves: Curve[]): { series: uPlot.Series[]; bands: uPlot.Band[] } {
  const result: uPlot.Series[] = [{}];
  const bands: uPlot.Band[] = [];
  for (const curve of curves) {
    const points = { show: curve.x.length === 1, size: 5 };
    result.push({ stroke: colour(curve.colour) + (curve.isFaint ? "66" : ""), width: curve.isFaint ? 1 : 1.75, points, spanGaps: true });
    if (curve.low && curve.high) {
      const edge = { stroke: "transparent", width: 0, points: { show: false }, spanGaps: true };
      result.push(edge, edge);
      bands.push({ series: [result.length - 1, result.length - 2], fill: colour(curve.colour) + "2b" });
    }
  }
  return { series: result, bands };
}

function options(element: HTMLElement, readout: HTMLElement, curves: Curve[], props: Props, height: number): uPlot.Options {
  const axis: uPlot.Axis = {
    stroke: css("--soft"),
    font: "11px system-ui, sans-serif",
    grid: { stroke: css("--line"), width: 1 },
    ticks: { show: false },
  };
  const xText = (value: number) => (props.isTime ? duration(value) : short(value));
  return {
    width: element.clientWidth,
    height,
    legend: { show: false },
    padding: [8, 10, 0, 0],
    cursor: {
      y: false,
      drag: { x: true, y: false },
      points: { size: 6 },
      sync: { key: "curves", setSeries: false },
    },
    scales: { x: { time: false }, y: { distr: props.isLog ? 3 : 1, range: props.isLog ? undefined : padded } },
    axes: [
      { ...axis, size: 22, gap: 3, space: 56, incrs: props.isTime ? SECONDS : COUNTS, values: (_, ticks) => ticks.map((tick) => (tick == null ? "" : xText(tick))) },
      { ...axis, size: 46, gap: 4, space: 28, values: (_, ticks) => ticks.map((tick) => (tick == null ? "" : short(tick))) },
    ],
    ...series(curves),
    hooks: {
      setCursor: [(plot) => tell(plot, readout, curves, xText)],
      draw: [
        (plot) => {
          for (const x of props.flagged ?? []) mark(plot, x, "--warn", [3, 3]);
          if (props.marked != null) mark(plot, props.marked, "--accent");
        },
      ],
      ready: [(plot) => listen(plot, curves, props.onPick)],
    },
  };
}

/** A flat line would fill no height: it gets some room. */
function padded(_: uPlot, low: number | null, high: number | null): uPlot.Range.MinMax {
  if (low == null || high == null) return [0, 1];
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  return [low - room, high + room];
}

function short(value: number): string {
  if (Math.abs(value) >= 1e4) return `${number(value / (Math.abs(value) >= 1e6 ? 1e6 : 1e3), 3)}${Math.abs(value) >= 1e6 ? "M" : "k"}`;
  return number(value, 3);
}

function tell(plot: uPlot, readout: HTMLElement, curves: Curve[], xText: (x: number) => string): void {
  const index = plot.cursor.idx;
  const left = plot.cursor.left ?? -1;
  readout.hidden = index == null || left < 0;
  if (index == null || left < 0) return;
  const x = plot.data[0][index]!;
  readout.replaceChildren(item(xText(x)));
  for (const curve of curves) {
    const value = at(curve, x);
    if (curve.isFaint || value === null) continue;
    const edge = (values: number[]) => number(at({ x: curve.x, y: values }, x));
    const range = curve.low && curve.high ? ` (${edge(curve.low)} to ${edge(curve.high)})` : "";
    const shown = item(number(value) + range);
    shown.dataset.line = String(curve.colour % PALETTE_SIZE);
    readout.append(shown);
  }
}

function item(text: string): HTMLElement {
  const element = document.createElement("span");
  element.textContent = text;
  return element;
}

function mark(plot: uPlot, x: number, colourName: string, dash: number[] = []): void {
  const left = Math.round(plot.valToPos(x, "x", true));
  plot.ctx.save();
  plot.ctx.strokeStyle = css(colourName);
  plot.ctx.lineWidth = 1.5 * devicePixelRatio;
  plot.ctx.setLineDash(dash.map((length) => length * devicePixelRatio));
  plot.ctx.beginPath();
  plot.ctx.moveTo(left, plot.bbox.top);
  plot.ctx.lineTo(left, plot.bbox.top + plot.bbox.height);
  plot.ctx.stroke();
  plot.ctx.restore();
}

function listen(plot: uPlot, curves: Curve[], onPick: Props["onPick"]): void {
  if (!onPick || curves.length === 0) return;
  plot.over.style.cursor = "pointer";
  plot.over.addEventListener("click", () => {
    if (plot.cursor.idx != null) onPick(plot.data[0][plot.cursor.idx]!);
  });
}
