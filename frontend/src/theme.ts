/** Light, dark, or as the system says. Kept in the browser where it lets us. */

import { useEffect, useState } from "preact/hooks";

export type Choice = "auto" | "light" | "dark";

const KEY = "eyas-theme";
const CHANGED = "eyas-theme-changed";
const system = matchMedia("(prefers-color-scheme: dark)");

export function choice(): Choice {
  try {
    const kept = localStorage.getItem(KEY);
    return kept === "light" || kept === "dark" ? kept : "auto";
  } catch {
    return "auto"; // storage is refused in some private windows and for files from disk
  }
}

/** The choice that is shown now, also where it could not be kept. */
export function chosen(): Choice {
  return (document.documentElement.dataset.choice as Choice | undefined) ?? "auto";
}

export function choose(theme: Choice): void {
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    // The choice then holds until the page is closed.
  }
  apply(theme);
}

export function apply(theme: Choice): void {
  document.documentElement.dataset.theme = theme === "auto" ? (system.matches ? "dark" : "light") : theme;
  document.documentElement.dataset.choice = theme;
  window.dispatchEvent(new Event(CHANGED));
}

system.addEventListener("change", () => apply(chosen()));

/** The theme that is shown now. */
export function useTheme(): string {
  const [theme, setTheme] = useState(document.documentElement.dataset.theme ?? "light");
  useEffect(() => {
    const follow = () => setTheme(document.documentElement.dataset.theme ?? "light");
    follow();
    window.addEventListener(CHANGED, follow);
    return () => window.removeEventListener(CHANGED, follow);
  }, []);
  return theme;
}
