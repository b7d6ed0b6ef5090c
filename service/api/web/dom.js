// Make elements, and format numbers and times. No script of the page parses text as HTML, so a name from the
// gallery cannot inject markup.

import { inWords } from "./words.js";

/** Make an element. Strings among the children become text; null ones are left out. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Return an object of the elements of a section that have a data-part, by the value of data-part. */
export function partsOf(element) {
  const parts = [...element.querySelectorAll("[data-part]")];
  return Object.fromEntries(parts.map((part) => [part.dataset.part, part]));
}

/** Show a message in `place` instead of the former message. */
export function showMessage(place, ...children) {
  place.replaceChildren(make("p", {}, ...children));
}

/** Show an error in `place` instead of the former message, in words of people where there are some. */
export function showProblem(place, problem, ...more) {
  const { title = "Error in this page", message, request_id } = inWords(problem);
  const request = request_id ? make("small", {}, `request ${request_id}`) : null;
  place.replaceChildren(make("div", { className: "problem", role: "alert" },
    make("strong", {}, title), make("p", {}, message), ...more, request));
}

/** Return an image element with the thumbnail of an item, whose longer side has `size` pixels of the page. */
export function picture(itemId, alt = "", size = 256) {
  const path = `gallery/${itemId}/thumbnail?size=`;
  const srcset = `${path}${size} 1x, ${path}${Math.min(1024, 2 * size)} 2x`;
  const image = make("img", { src: `${path}${size}`, srcset, alt, loading: "lazy" });
  image.addEventListener("error", () => {
    image.replaceWith(make("span", { className: "no-picture" }, "no picture"));
  });
  return image;
}

/** Show the chosen image files, before they are sent. */
export function showFiles(place, files) {
  place.replaceChildren(...files.slice(0, 24).map((file) => {
    const image = make("img", { src: URL.createObjectURL(file), alt: file.name, title: file.name });
    image.onload = image.onerror = () => URL.revokeObjectURL(image.src);
    return image;
  }), files.length > 24 ? `and ${files.length - 24} more` : "");
}

/** Call `take` with an array of files when the user chooses files in a label's input, or drops them on it. */
export function takeFiles(label, take) {
  const input = label.querySelector("input");
  const highlight = (isOver) => (event) => {
    event.preventDefault();
    label.classList.toggle("over", isOver);
  };
  label.addEventListener("dragover", highlight(true));
  label.addEventListener("dragleave", highlight(false));
  label.addEventListener("drop", (event) => {
    highlight(false)(event);
    if (event.dataTransfer.files.length) take([...event.dataTransfer.files]);
  });
  input.addEventListener("change", () => {
    const files = [...input.files];
    input.value = "";
    if (files.length) take(files);
  });
}

// If a file is dropped beside a label, the browser must not open the file in place of the page.
for (const kind of ["dragover", "drop"]) window.addEventListener(kind, (event) => event.preventDefault());

const SHOWN_WARNINGS = 20;

/** List the first warnings; null if there are none. */
export function warningList(warnings, num = warnings.length) {
  if (!num) return null;
  const lines = warnings.slice(0, SHOWN_WARNINGS).map(({ name, detail }) =>
    make("li", {}, make("code", {}, name), `: ${detail}`));
  return make("details", { className: "warnings", open: true },
    make("summary", {}, count(num, "warning")), make("ul", {}, ...lines));
}

const timeFormat = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

/** Return a time in the format of the browser's language. */
export const timeText = (text) => timeFormat.format(new Date(text));

/** Return a time element, in the format of the browser's language. */
export const time = (text) => make("time", { dateTime: text }, timeText(text));

/** Return an element with a name of the gallery, whose direction changes nothing around the name. */
export const named = (name) => make("bdi", { className: "name" }, name);

/** Return a name for the middle of a text without elements, isolated by Unicode's characters for that. */
export const isolated = (name) => `\u2068${name}\u2069`;

/** Return a number with its noun: 1 item, 2 items. */
export const count = (number, noun, plural = `${noun}s`) =>
  `${number.toLocaleString()} ${number === 1 ? noun : plural}`;

export const percent = (share) => `${(Math.floor(share * 1000) / 10).toLocaleString()} %`;
export const mebibytes = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

/** Return a number of seconds in its two largest units: 1 h 5 min. */
export function duration(seconds) {
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}
