// The search: crops of one person, the matches as cards, and the timeline of whom a card shows.

import { fieldsOf, get, identityPath, post } from "./api.js";
import {
  count, duration, make, partsOf, percent, picture, showFiles, takeFiles, tell, tellProblem, time,
} from "./dom.js";

const MOST_UNTIMED = 60;

const section = document.querySelector("#search");
const form = document.querySelector("#search-form");
const dialog = document.querySelector("#identity");
const parts = partsOf(section);
const shown = partsOf(dialog);

let crops = [];
let running = new AbortController();

async function search() {
  if (!crops.length) return tell(parts.told, "Choose a crop first.");
  running.abort();
  running = new AbortController();
  const { signal } = running;
  const fields = fieldsOf(form);
  for (const crop of crops) fields.append("images", crop);
  section.ariaBusy = "true";
  try {
    const answer = await post("search", { form: fields, signal });
    tell(parts.told, ...summary(answer));
    parts.matches.replaceChildren(...answer.matches.map(card));
  } catch (problem) {
    if (problem.name === "AbortError") return;
    parts.matches.replaceChildren();
    tellProblem(parts.told, problem);
  }
  section.ariaBusy = "false";
}

function summary({ num_searched, took_ms, model_version, matches, thresholds }) {
  if (!num_searched) {
    return ["No item passes: ", make("a", { href: "#enrol" }, "enrol crops"), ", or ask for less."];
  }
  const among = `${count(matches.length, "match", "matches")} among ${count(num_searched, "item")}`;
  const said = [`${among} in ${took_ms.toFixed(0)} ms by network `, make("code", {}, model_version), "."];
  const { match, unsure, source } = thresholds ?? {};
  if (isKnown(match) && isKnown(unsure)) {
    const whence = source === "evaluation" ? "as judged on this gallery" : "from the network's card";
    said.push(` A match from ${match.toFixed(2)}, unsure from ${unsure.toFixed(2)} (${whence}).`);
  }
  return said;
}

function card({ identity_id, score, decision, probability, items }) {
  const [best, ...others] = items;
  const button = make("button", { type: "button", className: "card" },
    picture(best.id, "best crop"),
    make("span", { className: "name", title: identity_id }, identity_id),
    make("span", { className: "score" },
      decision ? make("span", { className: `tag ${decision}` }, decision) : null,
      make("b", { title: "cosine of the embeddings" }, score.toFixed(3)),
      isKnown(probability) ? make("span", { title: "probability" }, percent(probability)) : null),
    where(best),
    others.length ? make("span", { className: "strip" }, ...others.map((item) => picture(item.id))) : null);
  button.addEventListener("click", () => showIdentity(identity_id));
  return make("li", {}, button);
}

const isKnown = (value) => value !== undefined && value !== null;

/** Say which camera saw an item, and when. */
export function where({ camera_id, captured_at }) {
  return make("span", { className: "where" },
    camera_id ? make("span", { className: "name" }, camera_id) : "camera unknown",
    captured_at ? time(captured_at) : null);
}

/** Show when and where someone was seen, in a dialog. */
export async function showIdentity(id) {
  dialog.dataset.identity = dialog.querySelector("h2").textContent = id;
  tell(shown.told, "Loading.");
  shown.visits.replaceChildren();
  shown.untimed.replaceChildren();
  if (!dialog.open) dialog.showModal();
  try {
    const path = identityPath(id);
    const [known, { visits, num_untimed, next_cursor }] = await Promise.all([get(path), get(`${path}/timeline`)]);
    const { items } = num_untimed ? await get(`${path}/items?limit=1000`) : { items: [] };
    if (dialog.dataset.identity !== id) return;
    const attributes = Object.entries(known.attributes).map((pair) => pair.join(": "));
    const facts = [known.name, count(known.num_items, "item"), ...attributes];
    tell(shown.told, facts.filter(Boolean).join(" · "));
    const later = next_cursor ? [make("li", {}, `Only the first ${count(visits.length, "visit")}.`)] : [];
    shown.visits.replaceChildren(...visits.map(visit), ...later);
    const untimed = items.filter((item) => !item.captured_at).slice(0, MOST_UNTIMED);
    const title = num_untimed ? [make("p", {}, `${count(num_untimed, "item")} without a time`)] : [];
    shown.untimed.replaceChildren(...title, ...untimed.map((item) => picture(item.id, item.camera_id ?? "")));
  } catch (problem) {
    tellProblem(shown.told, problem);
  }
}

function visit({ camera_id, first, last, num_items, item_id, gap_s }) {
  const seconds = (new Date(last) - new Date(first)) / 1000;
  const gap = gap_s === null ? "" : `, ${duration(gap_s)} after the visit before`;
  return make("li", {}, picture(item_id), make("div", {},
    make("strong", { className: "name" }, camera_id ?? "camera unknown"),
    make("p", {}, time(first), seconds ? ` for ${duration(seconds)}` : ""),
    make("small", {}, count(num_items, "item") + gap)));
}

function take(files) {
  crops = files;
  showFiles(parts.chosen, files);
  search();
}

takeFiles(form.querySelector(".drop"), take);
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length && section.checkVisibility()) take([...event.clipboardData.files]);
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  search();
});
