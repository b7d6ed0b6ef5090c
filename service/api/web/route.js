// Which section the page shows, and with which state. Both stand in the address, such as
// #gallery?camera_id=door, so that a reload, "back" and a link show the same again.

const sections = [...document.querySelectorAll("main > section")];
const links = [...document.querySelectorAll("nav a[href^='#']")];
const shows = new Map();
const heights = new Map();

let shown = null;

/** Return the section that the address names, which is the first one if it names none, and its state. */
export function place() {
  const [name, query] = location.hash.slice(1).split(/\?(.*)/s);
  const section = sections.find(({ id }) => id === name) ?? sections[0];
  return { section, state: new URLSearchParams(query) };
}

/** Return the address of a section with a state. A value may be a list; empty values are left out. */
export function address(name, state = {}) {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(state)) {
    for (const one of [value].flat()) if (one) query.append(key, one);
  }
  return `#${name}${query.size ? `?${query}` : ""}`;
}

/** Go to a section with a state, or show the section again if it has this state. */
export function go(name, state) {
  const to = address(name, state);
  if (location.hash === to) arrive();
  else location.hash = to;
}

/** Give the section that is shown another state in the address, without a step for "back". */
export function restate(state) {
  history.replaceState(null, "", address(place().section.id, state));
  arrive();
}

/** Call `show` with the state of a section whenever the section is shown, its state changes, or the gallery does.
 *
 * `show` is also called if nothing has changed. The service may know the caller before a module is loaded, so that
 * the section may be shown already. */
export function onShow(name, show) {
  shows.set(name, [...shows.get(name) ?? [], show]);
  if (document.body.dataset.may) queueMicrotask(arrive);
}

/** Return the address of the page of a person. */
export const personAddress = (id) => address("person", { id });

/** Show the title of the window for the section, or for what the section shows. */
export function entitle(text) {
  document.title = `${text} · reid-gallery`;
}

function arrive() {
  const { section, state } = place();
  for (const one of sections) one.hidden = one !== section;
  for (const link of links) {
    link.ariaCurrent = link.hash === `#${section.dataset.under ?? section.id}` ? "page" : null;
  }
  if (shown !== section) entitle(section.querySelector("h2").textContent);
  if (section.checkVisibility()) for (const show of shows.get(section.id) ?? []) show(state);
  const isOther = shown !== null && shown !== section;
  shown = section;
  return isOther;
}

/** Give the focus to the heading of the section that is shown. */
export function focusHeading() {
  const heading = place().section.querySelector("h2");
  heading.tabIndex = -1;
  heading.focus({ preventScroll: true });
}

// A section that is shown again is where it was left. The browser cannot do this, since the section was hidden.
history.scrollRestoration = "manual";
window.addEventListener("scroll", () => heights.set(location.hash, window.scrollY), { passive: true });
window.addEventListener("hashchange", () => {
  const height = heights.get(location.hash) ?? 0;
  if (!arrive()) return;
  window.scrollTo(0, height);
  // The link that was followed may be in the former section, which is hidden now and holds no focus.
  if (!document.activeElement?.checkVisibility() || document.activeElement === document.body) focusHeading();
});

// A microtask comes after the listeners of all sections, which discard first what they have shown.
for (const kind of ["caller", "signed-in", "gallery-changed"]) {
  document.addEventListener(kind, () => queueMicrotask(arrive));
}

arrive();
