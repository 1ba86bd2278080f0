/** Small pieces that several views share. */

import type { ComponentChildren } from "preact";
import { imageAddress } from "../api";
import { words } from "../format";
import { link, type Route } from "../route";
import type { Run } from "../types";

export function Failure({ error }: { error: string }) {
  return (
    <p class="failure" role="alert">
      {error}
    </p>
  );
}

export function Notes({ notes }: { notes?: string[] }) {
  if (!notes?.length) return null;
  return (
    <ul class="notes" role="status">
      {notes.map((note) => (
        <li key={note}>{note}</li>
      ))}
    </ul>
  );
}

/** The view's title with the run that it shows; choosing another run keeps the view. */
export function RunTitle({ title, route, run, all, children }: { title: string; route: Route; run: Run; all: Run[]; children?: ComponentChildren }) {
  return (
    <div class="title">
      <h1>{title}</h1>
      <label class="pick">
        <span class="hidden">Run</span>
        <select value={run.id} onChange={(event) => (location.hash = link(route.view, { run: event.currentTarget.value }))}>
          {all.map((one) => (
            <option key={one.id} value={one.id}>
              {one.id}
            </option>
          ))}
        </select>
      </label>
      <State run={run} />
      {children}
    </div>
  );
}

export function State({ run }: { run: Run }) {
  return <span class={`state ${run.state}`}>{run.state}</span>;
}

/** A picture of the run; nothing where the export left it out. */
export function Picture({ run, hash, size, alt, ...rest }: { run: string; hash: string; size?: number; alt: string; class?: string; width?: number; height?: number }) {
  const source = imageAddress(run, hash, size);
  if (!source) return <span class="quiet missing">picture left out</span>;
  return <img src={source} alt={alt} loading={size ? "lazy" : undefined} decoding="async" {...rest} />;
}

export function Success({ success }: { success: boolean | null }) {
  if (success == null) return <span class="quiet">–</span>;
  return success ? <span class="good">✓ yes</span> : <span class="bad">✗ no</span>;
}

interface Option {
  value: string;
  text?: string;
}

/** A labelled choice. The empty value means any. */
export function Choose({ label, value, options, any, onChange }: { label: string; value: string; options: (string | Option)[]; any?: string; onChange: (value: string) => void }) {
  return (
    <label class="field">
      <span>{label}</span>
      <select value={value} onChange={(event) => onChange(event.currentTarget.value)}>
        {any !== undefined && <option value="">{any}</option>}
        {options.map((one) => {
          const option = typeof one === "string" ? { value: one } : one;
          return (
            <option key={option.value} value={option.value}>
              {option.text ?? words(option.value)}
            </option>
          );
        })}
      </select>
    </label>
  );
}
