// When and where a person was seen: a lane for each camera, with a mark for each visit.

import { count, duration, isolated, make, named, picture, time, timeText } from "./dom.js";
import { largeAddress } from "./items.js";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 24;
const MARGIN = 2; // percent at either end, so that the round ends of the marks are whole

/** Return the lanes of visits, one for each camera in the order of the first visits, and the axis below them. */
export function lanes(visits) {
  const begin = Math.min(...visits.map(({ first }) => Date.parse(first)));
  const end = Math.max(...visits.map(({ last }) => Date.parse(last)));
  const at = (text) => MARGIN + (100 - 2 * MARGIN) * (Date.parse(text) - begin) / (end - begin || 1);
  const byCamera = Map.groupBy(visits, ({ camera_id }) => camera_id);
  const drawn = [...byCamera].map(([camera, own]) => lane(camera, own, at));
  return [...drawn, axis(begin, end)];
}

function lane(camera, visits, at) {
  const drawing = draw("svg", { width: "100%", height: HEIGHT, "aria-hidden": "true" });
  const middle = HEIGHT / 2;
  drawing.append(draw("line", { x1: "0", x2: "100%", y1: middle, y2: middle, class: "rail" }));
  for (const visit of visits) {
    const [x1, x2] = [at(visit.first), at(visit.last)].map((x) => `${x.toFixed(3)}%`);
    const mark = draw("line", { x1, x2, y1: middle, y2: middle, class: "visit" });
    const title = draw("title");
    title.textContent = visitText(visit);
    mark.append(title);
    // Visits are also links in the list, for those who see no drawing or have no mouse.
    mark.addEventListener("click", () => { location.hash = largeAddress(visit.item_id); });
    drawing.append(mark);
  }
  const items = visits.reduce((sum, { num_items }) => sum + num_items, 0);
  return make("li", {}, make("span", { className: "lane-name" }, cameraName(camera),
    make("small", {}, ` ${count(visits.length, "visit")}, ${count(items, "crop")}`)), drawing);
}

function axis(begin, end) {
  const texts = [...new Set([begin, end])].map((at) => new Date(at).toISOString());
  return make("li", { className: "axis" }, ...texts.map((text) => time(text)));
}

function draw(tag, attributes = {}) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

const cameraName = (camera) => (camera === null ? "camera unknown" : named(camera));

function visitText({ camera_id, first, last, num_items }) {
  const where = camera_id === null ? "camera unknown" : `camera ${isolated(camera_id)}`;
  return `${where}, ${timeText(first)}${lasting(first, last)}, ${count(num_items, "crop")}`;
}

function lasting(first, last) {
  const seconds = (new Date(last) - new Date(first)) / 1000;
  return seconds ? ` for ${duration(seconds)}` : "";
}

/** Return an entry of the list of visits, with a link that shows its first crop. */
export function visitEntry(visit) {
  const { camera_id, first, last, num_items, item_id, gap_s } = visit;
  const gap = gap_s === null ? "" : `, ${duration(gap_s)} after the previous visit to this camera`;
  const link = make("a", { href: largeAddress(item_id), ariaLabel: `Show large: ${visitText(visit)}` },
    picture(item_id));
  return make("li", {}, link, make("div", {},
    make("strong", {}, cameraName(camera_id)),
    make("p", {}, time(first), lasting(first, last)),
    make("small", {}, count(num_items, "crop") + gap)));
}
