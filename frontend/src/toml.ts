/** Splits TOML into coloured pieces. It only has to look right: the pieces joined are the text. */

export interface Piece {
  kind: "table" | "key" | "text" | "comment" | "value" | "plain";
  text: string;
}

const LINE = /^(\s*)([\w."'-]+)(\s*=\s*)(.*)$/;

export function pieces(line: string): Piece[] {
  if (/^\s*#/.test(line)) return [{ kind: "comment", text: line }];
  if (/^\s*\[.*\]\s*$/.test(line) && !line.includes("=") && /^\s*\[+[\w."' -]+\]+\s*$/.test(line)) return [{ kind: "table", text: line }];
  const match = LINE.exec(line);
  if (!match) return [{ kind: /^\s*"/.test(line) ? "text" : "plain", text: line }];
  const [, indent = "", key = "", equals = "", value = ""] = match;
  return [
    { kind: "plain", text: indent },
    { kind: "key", text: key },
    { kind: "plain", text: equals },
    { kind: /^["']/.test(value) ? "text" : "value", text: value },
  ];
}
