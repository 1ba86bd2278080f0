/** What the server answers, field by field as it comes. */

export type Metric = number | null | undefined;
export type Interval = [number, number] | null;

export interface EvalSummary {
  policy: string;
  decoding: string;
  strict_success_rate: Metric;
  strict_success_interval: Interval;
  return_mean: Metric;
}

export interface Run {
  id: string;
  name: string;
  env_ids: string[];
  state: "running" | "finished" | "stopped";
  stage: string | null;
  progress: number;
  seconds_left: number | null;
  started: number | null;
  updated: number | null;
  seed: number | null;
  commit: string | null;
  algorithm: string | null;
  main: { strict_success_rate?: Metric; return_mean?: Metric; eval?: EvalSummary[] };
  notes?: string[];
}

export interface RunList {
  runs: Run[];
  notes?: string[];
}

export interface RunDetail extends Run {
  config_toml: string;
  environment: Record<string, unknown>;
  stages: { name: string; kind: string; iterations: number | null; done: number | null }[];
}

export interface DiffRow {
  key: string;
  values: unknown[];
}

export type MetricRecord = { stage: string; iteration: number; time_s: number; policy_version?: number } & Record<
  string,
  number | string | null | undefined
>;

export interface EpisodeRow {
  key: string;
  stage: string;
  iteration: number;
  env_id: string;
  task: number;
  episode: number;
  seed: number;
  num_steps: number;
  first_step: number;
  return: number | null;
  success: boolean | null;
  progress: number | null;
  stop_reason: string;
  parse_failures: number;
  thumbnail: string | null;
}

export type Facets = Record<string, Record<string, number>>;

export interface EpisodePage {
  total: number;
  rows: EpisodeRow[];
  facets: Facets;
  notes?: string[];
}

export type Part = { text: string; image?: undefined } | { image: string; text?: undefined };

export interface Message {
  role: string;
  parts: Part[];
  completion_of_step?: number | null;
}

export interface Token {
  text: string;
  logprob: number | null; // when it was sampled
  is_thought: boolean;
  learner_logprob?: number | null; // at the learner's first pass over it
  ratio?: number | null; // of its probability at the last pass to that when it was sampled
  advantage?: number | null;
}

export interface Step {
  step: number;
  prefix_messages: number;
  messages: Message[];
  completion_text: string;
  thought: string | null;
  action_name: string | null;
  executed_name: string | null;
  executed_by: string;
  parse: { ok: boolean; reason: string | null; detail: string | null };
  facts_written: Record<string, unknown> | null;
  facts_truth: Record<string, unknown> | null;
  legal_actions: unknown[] | null;
  action_probabilities: { name: string; probability: number; is_chosen: boolean }[] | null;
  reward: { terms: Record<string, number>; environment_scale: number; total: number };
  value: number | null;
  advantage: number | null;
  tokens: Token[] | null;
  policy_version: number | null;
  finish_reason: string | null;
}

export interface Episode {
  episode: EpisodeRow;
  steps: Step[];
  final_messages: Message[] | null;
}

export interface Film {
  name: string;
  stage: string | null;
  iteration: number | null;
  bytes: number;
  type: string;
}

export interface PlayCommands {
  checkpoints: { name: string; commands: Record<string, string> }[]; // the newest first; commands by environment
}

/** Where a play stands. */
export interface Play {
  env: string;
  checkpoint: string | null;
  output: string;
  kept: { episodes: number; steps: number };
  episode: number;
  seed: number | null; // null: no episode runs, its environment failed
  step: number;
  return: number;
  prompt: Message[];
  actions: string[] | null; // the legal ones, where they can be listed
  has_words: boolean; // an action may be typed
  described: string;
  suggestion: Step | null; // what the model would do now
  played: { step: number; name: string | null; by: string; reward: number }[];
  end: { reason: string; success: boolean | null; progress: number | null } | null;
  problem?: string | null;
}

export interface ThoughtExample {
  thought: string | null;
  action_name: string | null;
  key: string;
  step: number;
}

export type ThoughtRecord = { stage?: string; iteration: number; examples: ThoughtExample[]; warnings?: string[] } & Record<string, unknown>;

export interface EvalRow extends EvalSummary {
  episodes: number;
  distinct_starts: number;
  distinct_starts_seen_in_training: number | null;
  success_rate: Metric;
  success_interval: Interval;
  return_interval: Interval;
  parse_rate: Metric;
  recognition_accuracy: Metric;
  mean_length_steps: Metric;
  stop_reasons: Record<string, number>;
}

export interface Evaluation {
  name: string;
  split?: string;
  env: string;
  seed: number;
  rows: EvalRow[];
  duration_s: number;
  commit: string;
  dirty: boolean | null;
  created: string;
}
