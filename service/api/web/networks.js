// Model versions and the state of the service. Both are fetched every few seconds and updated in place. So
// the page shows a swap without a reload, even one that somebody else has started, and an open form keeps
// its input.

import { get, post, send } from "./api.js";
import {
  count, make, mebibytes, partsOf, percent, showMessage, showProblem, takeFiles, time,
} from "./dom.js";
import { findRunning, follow, poll, when } from "./jobs.js";
import { showHeld } from "./retention.js";
import { askWho, isSignedOut } from "./session.js";

const TICK_MS = 1000;
const TICKS_A_REFRESH = 5;

const status = document.querySelector("#status");
const parts = partsOf(document.querySelector("#networks"));
const rows = new Map();

/** Fetch and show who is signed in, the state of the service, its model versions, and the jobs that have not ended. */
export async function refresh() {
  try {
    const { cameras } = await askWho();
    const { model_version, runtime, num_items, held_expiry } = await get("readyz");
    const rest = cameras ? ` on ${runtime}` : ` on ${runtime} · ${count(num_items, "item")}`;
    status.replaceChildren("network ", make("code", {}, model_version), rest);
    if (status.className === "failed") document.dispatchEvent(new Event("service-back"));
    status.className = "ready";
    if (!cameras) showModels((await get("models")).models.toReversed());
    await showHeld(held_expiry);
    await findRunning();
  } catch (problem) {
    showFailure(problem);
  }
}

function showFailure(problem) {
  status.textContent = problem.message;
  status.className = "failed";
}

function showModels(models) {
  for (const model of models) {
    if (!rows.has(model.version)) rows.set(model.version, modelRow(model));
    rows.get(model.version).update(model);
  }
  const wanted = models.map((model) => rows.get(model.version).element);
  const { children } = parts.models;
  if (children.length !== wanted.length || wanted.some((element, i) => children[i] !== element)) {
    parts.models.replaceChildren(...wanted);
  }
}

function modelRow({ version, architecture, embedding_size, card, created_at }) {
  const path = `models/${version}`;
  const tag = make("span");
  const facts = make("p");
  const coverage = make("progress", { max: 1, ariaLabel: "share of the items that are embedded" });
  const message = make("div");
  const evaluate = make("button", { type: "button", "data-needs": "admin" }, "Evaluate");
  const remove = make("button", { type: "button", "data-needs": "admin" }, "Delete");
  const activation = activationForm();
  const size = `${card.height} × ${card.width} pixels, ${embedding_size} dimensions`;
  const element = make("li", {},
    make("h3", {}, make("code", {}, version), tag),
    make("p", {}, `${architecture}, ${size}, registered `, time(created_at)),
    coverage, facts, message,
    make("div", { className: "actions" }, evaluate, activation, remove,
      make("a", { href: `${path}/file`, download: `${version}.safetensors`, "data-needs": "admin" }, "Download"),
      make("details", {}, make("summary", {}, "Card"), make("pre", {}, JSON.stringify(card, null, 2)))));

  const begin = (request) => async () => {
    follow(await request());
    await refresh();
  };
  const options = () => optionsOf(activation.querySelector("form"));
  when(evaluate, begin(() => post(`${path}/evaluate`)), message);
  when(activation, begin(() => post(`${path}/activate`, { json: options() })), message);
  when(remove, async () => {
    if (!confirm(`Delete network ${version} and its embeddings?`)) return;
    await send("DELETE", path);
    await refresh();
  }, message);

  function update(model) {
    tag.textContent = model.state;
    tag.className = `tag ${model.state}`;
    coverage.value = model.coverage ?? 0;
    coverage.hidden = model.coverage === undefined;
    facts.textContent = factsOf(model).join(" · ");
    activation.hidden = remove.hidden = model.state === "active";
  }
  return { element, update };
}

function factsOf({ num_embedded, coverage, num_bytes, failure, evaluation }) {
  const facts = failure ? [failure] : [];
  const share = coverage === undefined ? "" : ` (${percent(coverage)})`;
  facts.push(`${count(num_embedded, "item")} embedded${share}`);
  if (num_bytes) facts.push(mebibytes(num_bytes));
  if (evaluation) {
    facts.push(`on this gallery rank-1 ${evaluation.rank1.toFixed(1)}, mAP ${evaluation.mAP.toFixed(1)}`);
  }
  return facts;
}

function activationForm() {
  const choice = (name, text) => make("label", {}, make("input", { type: "checkbox", name }), text);
  return make("details", { "data-needs": "admin" }, make("summary", {}, "Activate…"), make("form", {},
    make("label", {}, "Switch ", make("select", { name: "strategy" },
      make("option", { value: "backfill" }, "after every item is embedded"),
      make("option", { value: "compatible" }, "at once, if trained to be compatible"))),
    choice("require_better", "only if not worse on this gallery"),
    choice("allow_missing", "leave out items whose crop is gone"),
    make("button", { className: "main" }, "Activate")));
}

function optionsOf({ elements: { strategy, require_better, allow_missing } }) {
  return {
    strategy: strategy.value,
    require_better: require_better.checked,
    allow_missing: allow_missing.checked,
  };
}

when(document.querySelector("#rollback"), async () => {
  if (!confirm("Go back to the network that was active before?")) return;
  follow(await post("models/rollback"));
  await refresh();
}, parts.message);

takeFiles(document.querySelector("#register-form .drop"), async ([file]) => {
  const form = new FormData();
  form.append("checkpoint", file);
  showMessage(parts.message, `Sending ${file.name}, ${mebibytes(file.size)}.`);
  try {
    const { version } = await post("models", { form });
    showMessage(parts.message, "Registered: ", make("code", {}, version), ".");
    await refresh();
  } catch (problem) {
    showProblem(parts.message, problem);
  }
});

document.addEventListener("signed-in", refresh);

async function tick(number) {
  try {
    const isDue = number % TICKS_A_REFRESH === 0 || status.className !== "ready";
    if (!isSignedOut() && (await poll() || (isDue && !document.hidden))) await refresh();
  } catch (problem) {
    showFailure(problem);
  }
  setTimeout(tick, TICK_MS, number + 1);
}

tick(0);
