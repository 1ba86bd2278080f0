import { render } from "preact";
import { App } from "./app";
import "./style.css";
import { apply, choice } from "./theme";

apply(choice());
render(<App />, document.getElementById("page")!);
