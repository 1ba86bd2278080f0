/** Numbers, durations and dates as a person reads them. */

export const NOTHING = "–";

/** Four significant digits at most, without trailing zeros; an en dash for what is unknown. */
export function number(value: unknown, digits = 4): string {
  if (typeof value !== "number" || !Number.isFinite(value)) return NOTHING;
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return minus(value.toExponential(2));
  return minus(String(Number(value.toPrecision(digits))));
}

/** With a fixed number of decimals, so that a column lines up. */
export function fixed(value: unknown, decimals: number): string {
  if (typeof value !== "number" || !Number.isFinite(value)) return NOTHING;
  const text = value.toFixed(decimals);
  return minus(Number(text) === 0 ? text.replace("-", "") : text);
}

export function percent(value: unknown, decimals = 0): string {
  return typeof value === "number" && Number.isFinite(value) ? `${(value * 100).toFixed(decimals)} %` : NOTHING;
}

export function percentInterval(interval: [number, number] | null | undefined): string {
  return interval ? `${(interval[0] * 100).toFixed(0)}–${(interval[1] * 100).toFixed(0)}` : NOTHING;
}

/** With its sign, which a reward or an advantage is read by. */
export function signed(value: unknown): string {
  const text = number(value);
  return typeof value === "number" && value > 0 ? `+${text}` : text;
}

export function duration(seconds: number | null | undefined): string {
  if (seconds == null || !Number.isFinite(seconds)) return NOTHING;
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  const minutes = Math.round(whole / 60);
  if (minutes < 60) return `${minutes} min`;
  if (minutes >= 48 * 60) return `${Math.round(minutes / 1440)} d`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

export function ago(unix: number | null | undefined, now = Date.now() / 1000): string {
  if (unix == null) return NOTHING;
  const seconds = now - unix;
  if (seconds < 5) return "now";
  if (seconds < 36 * 3600) return `${duration(seconds)} ago`;
  return new Date(unix * 1000).toISOString().slice(0, 10);
}

export function count(value: number, unit: string): string {
  return `${value.toLocaleString("en")} ${unit}${value === 1 ? "" : "s"}`;
}

export function words(name: string): string {
  return name.replaceAll("_", " ");
}

/** The parts of a training's warning, "name: likely cause. Try this". */
export function warning(text: string): { name: string; cause: string; remedy: string } {
  const [, name = "", advice = text] = /^(\w+): ([^]*)$/.exec(text) ?? [];
  const at = advice.indexOf(" Try ");
  return { name, cause: at < 0 ? advice : advice.slice(0, at), remedy: at < 0 ? "" : advice.slice(at + 1) };
}

/** Anything from a run as one line of text. */
export function plain(value: unknown): string {
  if (value === undefined) return "not set";
  return typeof value === "string" ? value : JSON.stringify(value);
}

function minus(text: string): string {
  return text.replace(/^-/, "−").replace(/e-/, "e−").replace(/e\+/, "e");
}
