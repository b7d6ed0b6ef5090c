// Work in the background: a panel for each job, followed to its end, and what an evaluation has found.

import { get, send } from "./api.js";
import { count, duration, make, tellProblem, warningList } from "./dom.js";

const DOING = { activation: "Activating", evaluation: "Evaluating", import: "Importing" };
const DONE = { succeeded: "done", failed: "failed", cancelled: "cancelled" };
const MEASURES = { "rank-1": "rank1", "rank-5": "rank5", mAP: "mAP", mINP: "mINP" };

const place = document.querySelector("#jobs");
const panels = new Map();

/** Show a job until whoever watches it dismisses it. */
export function follow(job) {
  if (!panels.has(job.id)) {
    panels.set(job.id, jobPanel(job.id));
    place.append(panels.get(job.id).element);
  }
  panels.get(job.id).update(job);
}

/** Begin to follow the jobs that run already, such as those from before a reload. */
export async function findRunning() {
  try {
    const { jobs } = await get("jobs?state=queued&state=running");
    jobs.forEach(follow);
  } catch (problem) {
    if (problem.status !== 404) throw problem; // a service that does not list jobs
  }
}

/** Ask how far jobs are; tell whether one has ended. */
export async function poll() {
  const running = [...panels].filter(([, panel]) => panel.runs);
  for (const job of await Promise.all(running.map(([id]) => get(`jobs/${id}`)))) follow(job);
  return running.some(([, panel]) => !panel.runs);
}

function jobPanel(id) {
  const title = make("strong");
  const bar = make("progress", { ariaLabel: "progress" });
  const said = make("p");
  const found = make("div");
  const told = make("div");
  const cancel = make("button", { type: "button" }, "Cancel");
  const dismiss = make("button", { type: "button", hidden: true }, "Dismiss");
  const element = make("article", {}, title, bar, said, found, told, cancel, dismiss);
  const panel = { element, runs: true, update };

  function update(job) {
    panel.runs = !(job.state in DONE);
    element.className = `job ${job.state}`;
    const ending = panel.runs ? "" : `: ${DONE[job.state]}`;
    const version = make("code", {}, job.model_version ?? "");
    title.replaceChildren(`${DOING[job.kind] ?? job.kind} `, version, ending);
    bar.hidden = cancel.hidden = !panel.runs;
    dismiss.hidden = panel.runs;
    if (job.total) Object.assign(bar, { max: job.total, value: job.done });
    said.textContent = job.error ?? progressOf(job);
    const compared = job.result?.versions ? comparison(job.result) : null;
    const shown = [compared, warningList(job.warnings ?? [], job.num_warnings)];
    found.replaceChildren(...shown.filter((one) => one !== null));
  }

  dismiss.addEventListener("click", () => {
    element.remove();
    panels.delete(id);
  });
  when(cancel, async () => update(await send("DELETE", `jobs/${id}`)), told);
  return panel;
}

function progressOf({ state, done, total, rate, seconds_left }) {
  if (state === "queued") return "waiting to begin";
  const left = seconds_left ?? (rate > 0 ? (total - done) / rate : null);
  const said = [`${done.toLocaleString()} of ${count(total, "item")}`];
  if (rate) said.push(`${rate.toLocaleString()} a second`);
  if (state === "running" && total && left !== null) said.push(`${duration(left)} left`);
  return said.join(" · ");
}

/** Show how networks did on the same items, and by how much they differ; all is in percent. */
export function comparison({ versions, difference = {}, num_queries, num_items, active_version }) {
  const found = Object.values(versions);
  const names = Object.keys(versions).map((version) => make("th", { scope: "col" },
    make("code", {}, version), version === active_version ? " active" : ""));
  const line = (name, values, apart) => make("tr", {}, make("th", { scope: "row" }, name),
    ...values.map((value) => make("td", {}, percents(value))), make("td", {}, apart ? interval(apart) : ""));
  const measures = Object.entries(MEASURES).map(([name, key]) =>
    line(name, found.map((evaluation) => evaluation[key]), difference[key]));
  const hits = (found[0].thresholds ?? []).map(({ fmr }, i) =>
    line(`hit rate at FMR ${fmr}`, found.map(({ thresholds }) => thresholds[i].hit_rate * 100)));
  const head = make("tr", {}, make("td"), ...names, make("th", { scope: "col" }, "gain"));
  const among = `${count(num_queries, "query", "queries")} among ${count(num_items, "item")}, in percent`;
  return make("table", {}, make("caption", {}, among), head, ...measures, ...hits);
}

const percents = (value) => (Number.isFinite(value) ? value.toFixed(1) : "–");
const signed = (value) => (value > 0 ? "+" : "") + value.toFixed(1);
const interval = ({ value, low, high }) => `${signed(value)} (${signed(low)} to ${signed(high)})`;

/** Act when a button is pressed or a form sent, once at a time, and tell in a place why it failed. */
export function when(element, act, place) {
  element.addEventListener(element.matches("button") ? "click" : "submit", async (event) => {
    event.preventDefault();
    const button = event.submitter ?? element;
    button.disabled = true;
    place.replaceChildren();
    try {
      await act();
      if (element.matches("details")) element.open = false;
    } catch (problem) {
      tellProblem(place, problem, problem.comparison?.versions ? comparison(problem.comparison) : null);
      if (problem.job_id) get(`jobs/${problem.job_id}`).then(follow);
    } finally {
      button.disabled = false;
    }
  });
}
