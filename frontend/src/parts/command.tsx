/** The command that plays a checkpoint: the viewer starts nothing by itself. */

import { useState } from "preact/hooks";
import { isExport, useAnswer } from "../api";
import type { PlayCommands } from "../types";
import { Choose } from "./common";

/** Nothing where the run has no checkpoint, and in an exported file, which lies on another machine than they. */
export function PlayCommand({ run, envs, seed }: { run: string; envs: string[]; seed?: number }) {
  const { data } = useAnswer<PlayCommands>(isExport() ? null : "/api/play-commands", { run });
  const [name, setName] = useState<string | null>(null);
  const [env, setEnv] = useState(envs[0]);
  const all = data?.checkpoints ?? [];
  const chosen = all.find((one) => one.name === name) ?? all[0];
  const command = env && chosen?.commands[env];
  if (!command) return null;
  return (
    <section class="card command" aria-labelledby="play-title">
      <h2>
        <span id="play-title">Play it</span>
        <span class="end">
          {envs.length > 1 && <Choose label="Environment" value={env!} options={envs.map((one) => ({ value: one, text: one }))} onChange={setEnv} />}
          <Choose label="Checkpoint" value={chosen.name} options={all.map((one) => ({ value: one.name, text: one.name }))} onChange={setName} />
        </span>
      </h2>
      <Copied key={command} text={command} />
      <p class="quiet small">
        To be typed where these runs lie. It opens a page of its own: step by step, in turn with you, at any temperature.
        {seed !== undefined && ` With seed ${seed} there, an episode begins as this one did.`}
      </p>
    </section>
  );
}

/** A text with a button that copies it; where the browser does not let it, the text is selected instead. */
function Copied({ text }: { text: string }) {
  const [isCopied, setCopied] = useState(false);
  const copy = async (event: Event) => {
    const code = (event.currentTarget as Element).previousElementSibling!;
    try {
      await navigator.clipboard.writeText(text);
      setCopied(true);
    } catch {
      getSelection()?.selectAllChildren(code);
    }
  };
  return (
    <div class="copied">
      <code>{text}</code>
      <button onClick={copy}>{isCopied ? "Copied" : "Copy"}</button>
    </div>
  );
}
