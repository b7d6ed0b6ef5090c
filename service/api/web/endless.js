// Lists that grow as their end comes into view, a page of the service at a time.

import { make, showMessage, showProblem } from "./dom.js";

/** Make a list endless, and return functions that begin it again and empty it.
 *
 * `fetchPage` takes a cursor and a signal, and returns the entries and the next cursor. `card` makes the element
 * of an entry. `empty` returns what an empty list says, and `whole` what a whole list says at its end. */
export function endless({ list, foot, fetchPage, card, empty, whole = () => [] }) {
  let running = new AbortController();
  let cursor = "";
  let state = "ended";

  // The observer tells changes alone. So the foot is observed anew after each page, which may leave it in view.
  const observer = new IntersectionObserver((seen) => {
    if (seen.some(({ isIntersecting }) => isIntersecting) && state === "waiting") more();
  }, { rootMargin: "800px" });

  function clear() {
    running.abort();
    running = new AbortController();
    cursor = "";
    state = "ended";
    list.ariaBusy = "false";
    list.replaceChildren();
    foot.replaceChildren();
    observer.disconnect();
  }

  function begin() {
    clear();
    return more();
  }

  async function more() {
    const own = running;
    state = "loading";
    list.ariaBusy = "true";
    showMessage(foot, "Loading.");
    try {
      const { entries, next_cursor } = await fetchPage(cursor, own.signal);
      if (own !== running) return;
      list.append(...entries.map(card));
      list.dispatchEvent(new Event("grown", { bubbles: true }));
      cursor = next_cursor;
      state = cursor ? "waiting" : "ended";
      foot.replaceChildren();
      if (!cursor) showMessage(foot, ...(list.children.length ? whole(list.children.length) : empty()));
    } catch (problem) {
      if (own !== running) return;
      state = "failed";
      const again = make("button", { type: "button" }, "Try again");
      again.addEventListener("click", more);
      showProblem(foot, problem, again);
    }
    list.ariaBusy = "false";
    observer.disconnect();
    observer.observe(foot);
  }

  for (const kind of ["service-back", "signed-in"]) {
    document.addEventListener(kind, () => {
      if (state === "failed") more();
    });
  }
  return { begin, clear };
}
