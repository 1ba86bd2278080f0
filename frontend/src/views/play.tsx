/** A person and a model play in turn: what the model sees, what it would do, and who acts. */

import { useEffect, useState } from "preact/hooks";
import { PLAYED } from "../api";
import { count, fixed, number, signed, words } from "../format";
import { useKeys, type Keys } from "../keys";
import { Choose, Failure, Success } from "../parts/common";
import { Actions } from "../parts/outcome";
import { Said } from "../parts/said";
import { Saw } from "../parts/saw";
import { keysOf, usePlay, type Command } from "../play";
import type { Play } from "../types";

const SPEEDS = ["0.5", "1", "2", "5", "20"];
const SIGNS: Record<string, string> = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓" };

export function PlayView() {
  const { play, problem, isOffered, isWaiting, run, start } = usePlay();
  const model = useModel(play, problem, isWaiting, run);
  const seconds = useSeconds(isWaiting);
  const begin = (seed?: number) => {
    model.pause();
    run({ do: "begin", seed });
  };
  useKeys({ n: () => begin(), r: () => play?.seed != null && begin(play.seed) });
  if (isOffered === false) return <Failure error="This server plays nothing: type `eyas play ENV`." />;
  return (
    <>
      <div class="title">
        <h1>Play</h1>
        {play && <span class="quiet">{play.env}</span>}
        {play?.checkpoint && <span class="quiet">with {play.checkpoint}</span>}
        {play && <Seed play={play} begin={begin} />}
      </div>
      {problem && <Failure error={problem} />}
      {!play && (problem || seconds > 1) && (
        <button class="main" disabled={isWaiting} onClick={() => start()}>
          {isWaiting ? "Starting…" : "Start again"}
        </button>
      )}
      {play && seconds > 8 && (
        <p class="notes" role="status">
          No answer for {seconds} s. A large model takes its time; where it hangs,{" "}
          <button onClick={() => start()}>start again</button>
        </p>
      )}
      {play && (
        <div class="step playing">
          {play.seed !== null && <Saw run={PLAYED} prompt={play.prompt} step={{ step: play.step, prefix_messages: 0 }} />}
          <div class="column">
            <Standing play={play} />
            {!play.end && play.seed !== null && <Moves play={play} act={model.act} />}
            <Model play={play} model={model} isWaiting={isWaiting} />
            <Played play={play} />
          </div>
        </div>
      )}
    </>
  );
}

// ------------------------------------------------------------------------------------------------ the model's side

interface ModelSide {
  isRunning: boolean;
  isAsking: boolean;
  speed: string;
  temperature: number;
  canAct: boolean;
  act: (command: { action: number } | { words: string }) => void;
  step: () => void;
  ask: (temperature?: number) => void;
  toggle: () => void;
  pause: () => void;
  setAsking: (is: boolean) => void;
  setSpeed: (speed: string) => void;
  setTemperature: (temperature: number) => void;
}

/** Asks the model at each step where it is to be asked, and plays what it says while it runs. */
function useModel(play: Play | null, problem: string | null, isWaiting: boolean, run: (command: Command) => void): ModelSide {
  const [isRunning, setRunning] = useState(false);
  const [isAsking, setAsking] = useState(true);
  const [speed, setSpeed] = useState("1");
  const [temperature, setTemperature] = useState(1);
  const canAct = play !== null && play.seed !== null && play.end === null;
  const hasModel = canAct && play.checkpoint !== null;
  const step = play?.step ?? 0;
  const send = (name: "suggest" | "follow", at = temperature) => hasModel && run({ do: name, step, temperature: at });
  useEffect(() => {
    if (!hasModel || problem) setRunning(false);
    else if (!isWaiting && !play.suggestion && (isAsking || isRunning)) send("suggest");
  }, [play, problem, isWaiting, isAsking, isRunning]);
  useEffect(() => {
    if (!isRunning || isWaiting || !play?.suggestion) return;
    const timer = setTimeout(() => send("follow"), 1000 / Number(speed));
    return () => clearTimeout(timer);
  }, [isRunning, isWaiting, play, speed]);
  const side: ModelSide = {
    ...{ isRunning, isAsking, speed, temperature, canAct, setAsking, setSpeed },
    act: (command) => {
      setRunning(false); // the person takes over
      if (canAct) run({ do: "act", step, ...command });
    },
    step: () => {
      setRunning(false);
      send("follow");
    },
    ask: (at) => send("suggest", at),
    toggle: () => setRunning(hasModel && !isRunning),
    pause: () => setRunning(false),
    setTemperature: (to) => {
      setTemperature(to);
      if (!isRunning) send("suggest", to);
    },
  };
  useKeys(play?.checkpoint ? { " ": side.toggle, s: side.step, a: () => side.ask() } : {});
  return side;
}

function Model({ play, model, isWaiting }: { play: Play; model: ModelSide; isWaiting: boolean }) {
  if (play.checkpoint === null) {
    return (
      <p class="quiet small">
        No model plays here. Start with <code>--checkpoint FOLDER</code>, or <code>nano-random</code>, to see what one would say.
      </p>
    );
  }
  const isOver = !model.canAct;
  return (
    <>
      <div class="controls card" role="group" aria-label="The model">
        <button class="main play" disabled={isOver} onClick={model.toggle}>
          {model.isRunning ? "❚❚ Pause" : "▶ Let it play"}
        </button>
        <button disabled={isOver} onClick={model.step}>
          Step <kbd>s</kbd>
        </button>
        <button disabled={isOver} onClick={() => model.ask()}>
          Ask again <kbd>a</kbd>
        </button>
        <Choose label="Steps a second" value={model.speed} options={SPEEDS} onChange={model.setSpeed} />
        <label class="field">
          <span>Temperature</span>
          <input
            type="number"
            min={0}
            max={10}
            step={0.1}
            value={model.temperature}
            onChange={(event) => event.currentTarget.reportValidity() && model.setTemperature(event.currentTarget.valueAsNumber || 0)}
          />
        </label>
        <label class="check">
          <input type="checkbox" checked={model.isAsking} onChange={() => model.setAsking(!model.isAsking)} /> ask at every step
        </label>
      </div>
      {play.suggestion && <Said step={play.suggestion} colouring="logprob" isPlayed={false} />}
      {play.suggestion?.action_probabilities && <Actions step={play.suggestion} />}
      {!play.suggestion && !isOver && <p class="quiet">{isWaiting ? "The model is being asked…" : "The model was not asked."}</p>}
    </>
  );
}

// ------------------------------------------------------------------------------------------------ the person's side

function Moves({ play, act }: { play: Play; act: ModelSide["act"] }) {
  const actions = play.actions ?? [];
  const keys = keysOf(actions);
  const bound: Keys = {};
  keys.forEach((key, index) => key && (bound[key] = () => act({ action: index })));
  useKeys(bound);
  const [text, setText] = useState("");
  const submit = (event: Event) => {
    event.preventDefault();
    if (!text.trim()) return;
    act({ words: text });
    setText("");
  };
  return (
    <section class="card" aria-labelledby="moves-title">
      <h2 id="moves-title">Your action</h2>
      {actions.length > 0 && (
        <div class="moves">
          {actions.map((name, index) => (
            <button key={index} onClick={() => act({ action: index })}>
              {name} {keys[index] && keys[index] !== name && <kbd>{SIGNS[keys[index]!] ?? keys[index]}</kbd>}
            </button>
          ))}
        </div>
      )}
      {play.has_words && (
        <form class="moves" onSubmit={submit}>
          <input type="text" aria-label="Your action in words" placeholder={play.described} value={text} onInput={(event) => setText(event.currentTarget.value)} />
          <button class="main">Play</button>
        </form>
      )}
    </section>
  );
}

function Seed({ play, begin }: { play: Play; begin: (seed?: number) => void }) {
  const [seed, setSeed] = useState("");
  useEffect(() => setSeed(play.seed === null ? "" : String(play.seed)), [play.seed]);
  return (
    <form
      class="end"
      onSubmit={(event) => {
        event.preventDefault();
        if (seed) begin(Number(seed));
      }}
    >
      <label class="field">
        <span>Seed</span>
        <input type="number" class="seed" min={0} max={2 ** 31 - 1} step={1} value={seed} onInput={(event) => setSeed(event.currentTarget.value)} />
      </label>
      <button type="submit">
        Begin <kbd>r</kbd>
      </button>
      <button type="button" class="main" onClick={() => begin()}>
        Next episode <kbd>n</kbd>
      </button>
    </form>
  );
}

// ------------------------------------------------------------------------------------------------ the episode so far

function Standing({ play }: { play: Play }) {
  return (
    <section class="card" aria-label="Episode">
      <div role="status">{play.end && <h2 class="over">The episode is over: {words(play.end.reason)}</h2>}</div>
      <dl class="facts standing">
        <Fact name="Episode">{play.episode + 1}</Fact>
        <Fact name="Step">
          <span class="at" role="status">
            {play.step}
          </span>
        </Fact>
        <Fact name="Return">{fixed(play.return, 2)}</Fact>
        {play.end && (
          <Fact name="Success">
            <Success success={play.end.success} />
          </Fact>
        )}
        {play.end?.progress != null && <Fact name="Progress">{number(play.end.progress)}</Fact>}
        <Fact name={`Recorded in ${play.output}`}>
          {count(play.kept.episodes, "episode")}, {count(play.kept.steps, "step")}
        </Fact>
      </dl>
    </section>
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

function Played({ play }: { play: Play }) {
  if (play.played.length === 0) return null;
  return (
    <section class="card" aria-labelledby="played-title">
      <h2 id="played-title">Steps so far</h2>
      <ol class="played" tabIndex={0} aria-labelledby="played-title">
        {[...play.played].reverse().map((step) => (
          <li key={step.step}>
            <span class="quiet">{step.step}</span>
            <span>{step.name ?? "nothing"}</span>
            <span class={`by ${step.by}`}>{BY[step.by] ?? step.by}</span>
            <span class="number">{signed(step.reward)}</span>
          </li>
        ))}
      </ol>
    </section>
  );
}

const BY: Record<string, string> = { human: "you", policy: "model", fallback: "fallback" };

/** Seconds since the wait began, counted while it lasts. */
function useSeconds(isWaiting: boolean): number {
  const [seconds, setSeconds] = useState(0);
  useEffect(() => {
    setSeconds(0);
    if (!isWaiting) return;
    const timer = setInterval(() => setSeconds((old) => old + 1), 1000);
    return () => clearInterval(timer);
  }, [isWaiting]);
  return seconds;
}
