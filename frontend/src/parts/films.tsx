/** The films of a run with a player; nothing where it has none. */

import { useState } from "preact/hooks";
import { address, useAnswer } from "../api";
import type { Film } from "../types";
import { Choose } from "./common";

export function Films({ run, isLive }: { run: string; isLive: boolean }) {
  const { data } = useAnswer<{ films: Film[] }>("/api/films", { run }, isLive);
  const films = data?.films ?? [];
  const [chosen, choose] = useState<string | null>(null);
  const film = films.find((one) => one.name === chosen) ?? films.at(-1);
  if (!film) return null;
  const source = address("/api/film", { run, name: film.name });
  return (
    <section class="films" aria-labelledby="films-title">
      <h2 id="films-title">Films</h2>
      <div class="controls">
        <Choose label="Film" value={film.name} options={films.map((one) => ({ value: one.name, text: one.name }))} onChange={choose} />
        <span class="quiet small">
          {film.stage && `${film.stage}, `}
          {film.iteration != null && `iteration ${film.iteration}, `}
          {Math.ceil(film.bytes / 1024)} kB · <a href={source}>open</a>
        </span>
      </div>
      {film.type.startsWith("video/") ? (
        <video key={source} src={source} controls loop aria-label={`Film ${film.name}`} />
      ) : (
        <img key={source} src={source} alt={`Film ${film.name}: an episode step by step`} />
      )}
    </section>
  );
}
