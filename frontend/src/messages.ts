/** Whole prompts from what each step adds to the one before. */

import type { Message, Step } from "./types";

/** Every step's whole prompt, as the model saw it. */
export function prompts(steps: Step[]): Message[][] {
  let before: Message[] = [];
  return steps.map((step) => (before = [...before.slice(0, step.prefix_messages), ...step.messages]));
}

/** The newest picture of a prompt: what the environment shows at this step. */
export function frame(prompt: Message[]): string | null {
  const images = prompt.flatMap((message) => message.parts.flatMap((part) => (part.image === undefined ? [] : [part.image])));
  return images.at(-1) ?? null;
}

/** How unlikely a token was, in seven classes: 0 is nearly certain, 6 is below one in a hundred thousand. */
export function surprise(logprob: number | null): number {
  if (logprob === null) return 0;
  return between(-logprob, [0.1, 0.5, 1.2, 2.3, 4.6, 11.5]);
}

/** How many of the rising edges a size has reached. */
export function between(size: number, edges: number[]): number {
  const found = edges.findIndex((edge) => size < edge);
  return found < 0 ? edges.length : found;
}
