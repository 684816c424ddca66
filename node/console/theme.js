// Dark, light, or as the system has it.

import { byId } from "./dom.js";

const KEY = "sqlited.theme";
const CHOICES = [["auto", "◐", "as the system"], ["light", "☀", "light"], ["dark", "☾", "dark"]];

export function startTheme() {
  const button = byId("theme");
  let at = Math.max(0, CHOICES.findIndex(([name]) => name === localStorage.getItem(KEY)));
  const apply = () => {
    const [name, sign, text] = CHOICES[at];
    if (name === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    button.textContent = sign;
    button.title = `Colours: ${text}`;
    button.setAttribute("aria-label", `Colours: ${text}`);
  };
  button.addEventListener("click", () => {
    at = (at + 1) % CHOICES.length;
    localStorage.setItem(KEY, CHOICES[at][0]);
    apply();
  });
  apply();
}
