// Enrolment: crops that share their metadata, sent in batches.

import { fieldsOf, post } from "./api.js";
import {
  count, make, partsOf, picture, showFiles, showMessage, showProblem, takeFiles, warningList,
} from "./dom.js";
import { refresh } from "./networks.js";
import { showIdentity, where } from "./search.js";

const BATCH = 64; // the most images that the API takes in one request

const section = document.querySelector("#enrol");
const form = document.querySelector("#enrol-form");
const button = form.querySelector("button");
const parts = partsOf(section);

let crops = [];

async function enrol() {
  const fields = fieldsOf(form);
  const total = crops.length;
  const items = [];
  const warnings = [];
  button.disabled = true;
  parts.items.replaceChildren();
  try {
    while (crops.length) {
      showMessage(parts.message, `${items.length.toLocaleString()} of ${count(total, "crop")} enrolled.`);
      const batch = crops.slice(0, BATCH);
      const answer = await post("gallery", { form: withImages(fields, batch) });
      items.push(...answer.items);
      warnings.push(...answer.warnings);
      crops = crops.slice(BATCH);
    }
    showMessage(parts.message, summary(items), warningList(warnings));
  } catch (problem) {
    const file = crops[problem.position];
    const which = file ? make("p", {}, "The file is ", make("code", {}, file.name), ".") : null;
    const before = items.length ? make("p", {}, `Before this batch: ${summary(items)}`) : null;
    showProblem(parts.message, problem, which, before, warningList(warnings));
  }
  showFiles(parts.chosen, crops);
  button.disabled = !crops.length;
  parts.items.replaceChildren(...items.slice(0, 120).map(card));
  refresh();
}

function withImages(fields, images) {
  const form = new FormData();
  for (const [name, value] of fields) form.append(name, value);
  for (const image of images) form.append("images", image);
  return form;
}

function summary(items) {
  const known = items.filter((item) => !item.is_new).length;
  const near = items.filter((item) => item.is_new && item.duplicate_of).length;
  const facts = [`${count(items.length - known, "crop")} enrolled`];
  if (known) facts.push(`${known.toLocaleString()} in the gallery already`);
  if (near) facts.push(`${near.toLocaleString()} nearly identical to another crop of the same camera`);
  return `${facts.join(", ")}.`;
}

function card(item) {
  const button = make("button", { type: "button", className: "card" },
    picture(item.id, "enrolled crop"),
    make("span", { className: "name", title: item.identity_id }, item.identity_id),
    item.is_new ? null : make("span", { className: "tag" }, "already there"),
    where(item));
  button.addEventListener("click", () => showIdentity(item.identity_id));
  return make("li", {}, button);
}

takeFiles(form.querySelector(".drop"), (files) => {
  crops = [...crops, ...files];
  showFiles(parts.chosen, crops);
  button.disabled = false;
});
document.addEventListener("other-caller", () => parts.items.replaceChildren());
form.addEventListener("submit", (event) => {
  event.preventDefault();
  enrol();
});
