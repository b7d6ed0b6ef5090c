// Many crops selected by their checkboxes, and the bar with what can be done with them.

import { count } from "./dom.js";

/** Make the checkboxes of a list select its items, and show `bar` while some are selected.
 *
 * Each checkbox has its item as the property `item`. A click with Shift takes all between it and the last one.
 * Returns functions: `chosen` returns the selected items, `all` selects those that are shown, and `none` none. */
export function selectable(list, bar) {
  const told = bar.querySelector("[data-told]");
  let last = null;

  const boxes = () => [...list.querySelectorAll("input[type=checkbox]")];
  const chosen = () => boxes().filter(({ checked }) => checked).map(({ item }) => item);

  function update() {
    const { length } = chosen();
    bar.hidden = !length;
    told.textContent = `${count(length, "crop")} selected`;
  }

  function set(checked) {
    for (const box of boxes()) box.checked = checked;
    update();
  }

  list.addEventListener("click", ({ target, shiftKey }) => {
    if (!target.matches("input[type=checkbox]")) return;
    if (shiftKey && last?.isConnected) {
      const all = boxes();
      const [from, to] = [all.indexOf(last), all.indexOf(target)].sort((a, b) => a - b);
      for (const box of all.slice(from, to + 1)) box.checked = target.checked;
    }
    last = target;
    update();
  });
  bar.querySelector("[data-none]").addEventListener("click", () => {
    const first = boxes().find(({ checked }) => checked);
    set(false);
    first?.focus(); // the bar is hidden with the button that has the focus
  });
  return { chosen, all: () => set(true), none: () => set(false) };
}
