/** What the model saw: the frame, and the whole prompt with its pictures in their places. */

import { useState } from "preact/hooks";
import { frame } from "../messages";
import type { Message } from "../types";
import { Picture } from "./common";

const SMALL_PX = 160; // pictures up to this width are enlarged pixel by pixel, larger ones smoothly

export function Saw({ run, prompt, step }: { run: string; prompt: Message[]; step: { step: number; prefix_messages: number } }) {
  const shown = frame(prompt);
  const [isSmall, setSmall] = useState(false);
  const pictures = prompt.flatMap((message) => message.parts).filter((part) => part.image !== undefined).length;
  return (
    <div class={`column saw ${shown ? "" : "no-frame"}`}>
      {shown && (
        <figure class={`frame ${isSmall ? "small-picture" : ""}`} onLoadCapture={(event) => setSmall((event.target as HTMLImageElement).naturalWidth <= SMALL_PX)}>
          <Picture run={run} hash={shown} alt={`What the environment shows at step ${step.step}`} />
        </figure>
      )}
      <section class="card" aria-labelledby="prompt-title">
        <h2 id="prompt-title">
          Prompt
          <small class="inline">
            {prompt.length} message{prompt.length === 1 ? "" : "s"}
            {pictures > 0 && `, ${pictures} picture${pictures === 1 ? "" : "s"}`}
          </small>
        </h2>
        {prompt.map((message, index) => (
          <PromptMessage key={index} run={run} message={message} isNew={index >= step.prefix_messages} />
        ))}
      </section>
    </div>
  );
}

function PromptMessage({ run, message, isNew }: { run: string; message: Message; isNew: boolean }) {
  return (
    <div class={`message ${message.role} ${isNew ? "" : "old"}`}>
      <span class="role">
        {message.role}
        {message.completion_of_step != null && <small class="inline"> wrote this at step {message.completion_of_step}</small>}
      </span>
      <pre tabIndex={-1}>
        {message.parts.map((part, index) =>
          part.image === undefined ? part.text : <Picture key={index} run={run} hash={part.image} size={96} alt={`picture ${index + 1} of this message`} class="inline-picture" />,
        )}
      </pre>
    </div>
  );
}
