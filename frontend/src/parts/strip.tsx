/** The episode at a glance: a bar a step, up for a gain and down for a loss; the shown step is marked. */

import { signed } from "../format";
import type { Step } from "../types";

export type Quantity = "reward" | "advantage" | "value";

const HEIGHT = 44;
const WIDEST_PX = 56; // a bar of a short episode

export function amount(step: Step, quantity: Quantity): number | null {
  return quantity === "reward" ? step.reward.total : step[quantity];
}

export function Strip({ steps, index, quantity, go }: { steps: Step[]; index: number; quantity: Quantity; go: (index: number) => void }) {
  const values = steps.map((step) => amount(step, quantity) ?? 0);
  const high = Math.max(0, ...values);
  const low = Math.min(0, ...values);
  const scale = (HEIGHT - 8) / (high - low || 1);
  const zero = high === low ? HEIGHT - 8 : 4 + high * scale;
  const width = 10;
  const total = steps.length * width;
  const click = (event: MouseEvent) => {
    const box = (event.currentTarget as Element).getBoundingClientRect();
    go(Math.min(steps.length - 1, Math.floor(((event.clientX - box.left) / box.width) * steps.length)));
  };
  return (
    <div class="strip" style={{ maxWidth: `max(14rem, ${steps.length * WIDEST_PX}px)` }}>
      <svg viewBox={`0 0 ${total} ${HEIGHT}`} preserveAspectRatio="none" onClick={click} aria-hidden="true">
        <rect class="here" x={index * width} y={0} width={width} height={HEIGHT} />
        <rect class="foot" x={index * width} y={HEIGHT - 2} width={width} height={2} />
        {steps.map((step, at) => {
          const size = Math.max(1.5, Math.abs(values[at]!) * scale);
          const kind = values[at]! > 0 ? "up" : values[at]! < 0 ? "down" : "flat";
          return (
            <g key={step.step}>
              <rect class={kind} x={at * width + 1} width={width - 2} y={values[at]! > 0 ? zero - size : zero} height={size} />
              {!step.parse.ok && <rect class="fault" x={at * width + 1} width={width - 2} y={0} height={3} />}
            </g>
          );
        })}
      </svg>
      <label>
        <span class="hidden">Step</span>
        <input
          type="range"
          min={0}
          max={Math.max(0, steps.length - 1)}
          value={index}
          aria-valuetext={`step ${steps[index]?.step}, ${quantity} ${signed(amount(steps[index]!, quantity))}`}
          onInput={(event) => go(Number(event.currentTarget.value))}
        />
      </label>
    </div>
  );
}
