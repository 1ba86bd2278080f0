/** The page's address: `#/VIEW?name=value&...`. Everything a person chose stands in it, so that any state is a link. */

import { useEffect, useState } from "preact/hooks";

export interface Route {
  view: string;
  query: URLSearchParams;
}

export type Changes = Record<string, string | number | null | undefined>;

export function parse(hash: string): Route {
  const [view = "", query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  return { view: view || "runs", query: new URLSearchParams(query) };
}

export function link(view: string, query: URLSearchParams | Record<string, string | number | string[]> = {}): string {
  const all = query instanceof URLSearchParams ? query : new URLSearchParams();
  if (!(query instanceof URLSearchParams)) {
    for (const [name, value] of Object.entries(query)) {
      for (const one of Array.isArray(value) ? value : [value]) all.append(name, String(one));
    }
  }
  const text = all.toString();
  return `#/${view}${text ? `?${text}` : ""}`;
}

/** The same view with some names changed; null, undefined and "" take a name out. */
export function changed(route: Route, changes: Changes): string {
  const query = new URLSearchParams(route.query);
  for (const [name, value] of Object.entries(changes)) {
    if (value == null || value === "") query.delete(name);
    else query.set(name, String(value));
  }
  return link(route.view, query);
}

/** Goes to an address without an entry in the history: for a slider or a search field. */
export function replace(address: string): void {
  history.replaceState(null, "", address);
  window.dispatchEvent(new HashChangeEvent("hashchange"));
}

/** Changes names in the address as it is now: a key or a typed letter may come before the page has drawn the last one. */
export function update(changes: Changes): void {
  replace(changed(parse(location.hash), changes));
}

/** What a name has in the address as it is now. */
export function current(name: string): string | null {
  return parse(location.hash).query.get(name);
}

export function useRoute(): Route {
  const [hash, setHash] = useState(location.hash);
  useEffect(() => {
    const follow = () => setHash(location.hash);
    window.addEventListener("hashchange", follow);
    return () => window.removeEventListener("hashchange", follow);
  }, []);
  return parse(hash);
}
