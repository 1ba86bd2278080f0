/** The frame around every view: navigation, theme, keys. */

import { useEffect, useRef, useState } from "preact/hooks";
import { isExport, useAnswer } from "./api";
import { HELP, useKeys } from "./keys";
import { Failure, Notes } from "./parts/common";
import { link, useRoute, type Route } from "./route";
import { choice, choose, chosen, type Choice } from "./theme";
import type { Run, RunList } from "./types";
import { Config } from "./views/config";
import { Curves } from "./views/curves";
import { EpisodeView } from "./views/episode";
import { Episodes } from "./views/episodes";
import { PlayView } from "./views/play";
import { EvaluationView } from "./views/evaluation";
import { Runs } from "./views/runs";
import { Thoughts } from "./views/thoughts";

const VIEWS: [string, string][] = [
  ["runs", "Runs"],
  ["curves", "Curves"],
  ["config", "Configuration"],
  ["episodes", "Episodes"],
  ["thoughts", "Thoughts"],
  ["evaluation", "Evaluation"],
];
const THEMES: Record<Choice, { next: Choice; sign: string; words: string }> = {
  auto: { next: "light", sign: "◐", words: "as the system" },
  light: { next: "dark", sign: "○", words: "light" },
  dark: { next: "auto", sign: "●", words: "dark" },
};

export function App() {
  const route = useRoute();
  const { data, error } = useAnswer<RunList>("/api/runs", {}, true);
  const offer = useAnswer<{ is_offered: boolean }>(isExport() ? null : "/api/play");
  const isPlay = route.view === "play";
  const [hasHelp, setHelp] = useState(false);
  const [theme, setTheme] = useState(choice());
  const nextTheme = () => {
    const next = THEMES[chosen()].next;
    choose(next);
    setTheme(next);
  };
  const keys: Record<string, () => void> = { "?": () => setHelp(!hasHelp) };
  if (!isPlay) {
    // A play has these keys for itself.
    Object.assign(keys, { d: nextTheme });
    VIEWS.forEach(([view], index) => (keys[String(index + 1)] = () => (location.hash = link(view, runsOf(route)))));
    if (offer.data?.is_offered) keys["7"] = () => (location.hash = link("play"));
  }
  useKeys(keys);
  useEffect(() => {
    const name = isPlay ? "Play" : (VIEWS.find(([view]) => view === route.view)?.[1] ?? "Episode");
    document.title = `${name} · Eyas`;
  }, [route.view]);
  return (
    <>
      <a class="skip" href="#main" onClick={toMain}>
        Skip to the content
      </a>
      <header>
        <a class="mark" href={link("runs")} aria-label="Eyas, all runs">
          <Mark /> eyas
        </a>
        <nav aria-label="Views">
          {VIEWS.map(([view, name]) => (
            <a key={view} href={link(view, runsOf(route))} aria-current={isCurrent(view, route) ? "page" : undefined}>
              {name}
            </a>
          ))}
          {offer.data?.is_offered && (
            <a href={link("play")} aria-current={isPlay ? "page" : undefined}>
              Play
            </a>
          )}
        </nav>
        <span class="end">
          {isExport() && <span class="badge">exported file</span>}
          <button class="bare" onClick={nextTheme} title={`Theme: ${THEMES[theme].words}`} aria-label={`Theme: ${THEMES[theme].words}. Change`}>
            {THEMES[theme].sign}
          </button>
          <button class="bare" onClick={() => setHelp(true)} title="Keys" aria-label="Show the keys">
            ?
          </button>
        </span>
      </header>
      <main id="main" tabIndex={-1}>
        {window.__EYAS_EXPORT__?.note && <Notes notes={[window.__EYAS_EXPORT__.note]} />}
        {error && <Failure error={error} />}
        {isPlay && <PlayView />}
        {data && !isPlay && <View route={route} list={data} />}
        {!data && !error && !isPlay && <p class="quiet">Reading the runs…</p>}
      </main>
      {hasHelp && <Help close={() => setHelp(false)} />}
    </>
  );
}

function View({ route, list }: { route: Route; list: RunList }) {
  const ids = route.query.getAll("run");
  const chosen = ids.map((id) => list.runs.find((run) => run.id === id)).filter((run) => run !== undefined);
  const unknown = ids.filter((id) => !list.runs.some((run) => run.id === id));
  const runs = chosen.length ? chosen : unknown.length ? [] : list.runs.slice(0, 1);
  const first = runs[0];
  if (route.view === "runs") return <Runs route={route} list={list} />;
  if (unknown.length) return <Failure error={`There is no run ${unknown.join(", ")} here: choose one from the list of runs.`} />;
  if (!first) return <p class="quiet">There is no run in the folders that are shown.</p>;
  const props = { route, run: first, all: list.runs };
  switch (route.view) {
    case "curves":
      return <Curves route={route} runs={runs} all={list.runs} />;
    case "config":
      return <Config {...props} />;
    case "episodes":
      return <Episodes key={first.id} {...props} />;
    case "episode":
      return <EpisodeView key={`${first.id} ${route.query.get("key")}`} {...props} />;
    case "thoughts":
      return <Thoughts key={first.id} {...props} />;
    case "evaluation":
      return <EvaluationView {...props} />;
    default:
      return <Failure error={`There is no view ${route.view}: choose one above.`} />;
  }
}

function runsOf(route: Route): { run: string[] } {
  return { run: route.query.getAll("run") };
}

function isCurrent(view: string, route: Route): boolean {
  return view === route.view || (view === "episodes" && route.view === "episode");
}

function toMain(event: Event): void {
  event.preventDefault();
  document.getElementById("main")?.focus();
}

function Help({ close }: { close: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog ref={dialog} onClose={close} aria-labelledby="keys-title">
      <h2 id="keys-title">Keys</h2>
      <div class="keys">
        {HELP.map(([title, rows]) => (
          <section key={title}>
            <h3>{title}</h3>
            <dl>
              {rows.map(([key, what]) => (
                <div key={key}>
                  <dt>
                    <kbd>{key}</kbd>
                  </dt>
                  <dd>{what}</dd>
                </div>
              ))}
            </dl>
          </section>
        ))}
      </div>
      <button onClick={() => dialog.current?.close()}>Close</button>
    </dialog>
  );
}

/** A hawk's eye. */
function Mark() {
  return (
    <svg width="20" height="20" viewBox="0 0 20 20" aria-hidden="true">
      <path d="M1 10C4 4.5 9 3 13 4.5c3 1.100 5 3.500 6 5.500-2 3.500-5.500 5.500-9 5.500S3.500 13.500 1 10Z" fill="none" stroke="currentColor" stroke-width="1.5" />
      <circle cx="10.500" cy="9.800" r="3.600" class="iris" />
      <circle cx="10.500" cy="9.800" r="1.600" fill="currentColor" />
    </svg>
  );
}

export type ViewProps = { route: Route; run: Run; all: Run[] };
