// What `huskv demo` adds to the page: a row of buttons for each node, and a tour. Every request goes to the demo, which forwards all but
// its own to a node that runs.

import { $, announce, ask, button, chip, fill, h, isolated, refresh, refusal, roleChip, state, visible } from "./app.js";

const POLL_MS = 1000;
const WAIT_MS = 60000;
const ACTIONS = ["kill", "pause", "cut", "heal"];
const WHAT = {
  kill: "SIGKILL: its process ends at once", pause: "SIGSTOP: its process stands still",
  cut: "no byte goes to or comes from other nodes; clients still reach it", heal: "ends the fault; a dead node is started again",
};
const SIGNS = { none: "\u2713 runs", killed: "\u2715 killed", paused: "\u25b2 paused", cut: "\u25b2 cut off", ended: "\u2715 has ended" };
const TOUR_KEY = "demo-tour";

const rows = h("ul", { class: "demo-nodes" });
const said = h("div", {});
const stage = h("div", { class: "tour", "aria-live": "polite" });
const starter = button("Watch a leader die", () => begin(), { class: "main" });
const panel = h("section", { class: "panel demo", "aria-labelledby": "demo-title" },
  h("div", { class: "row tight" }, h("h2", { id: "demo-title", class: "grow" }, "Demo"), starter), rows, said, stage);
$("main").before(panel);

let nodes = [], shown = "";

function draw(force) {
  const members = state.overview ? state.overview.members : [];
  const next = JSON.stringify([nodes, members.map((one) => [one.name, one.role, one.reachable])]);
  if (next === shown && !force) return;
  shown = next;
  fill(rows, nodes.map((node) => {
    const member = members.find((one) => one.name === node.name);
    const healthy = node.state === "none";
    const possible = (action) => (action === "heal" ? !healthy : action === "kill" ? healthy || node.state === "paused" || node.state === "cut" : healthy);
    return h("li", {}, h("b", {}, isolated(node.name)), chip(healthy ? "good" : "bad", SIGNS[node.state] || visible(node.state)), member && healthy ? roleChip(member) : "",
      h("span", { class: "row tight" }, ACTIONS.map((action) => button(action[0].toUpperCase() + action.slice(1), () => act(action, node.name), {
        disabled: !possible(action), title: WHAT[action], class: action === "heal" ? "" : "risk", "data-focus": `demo ${action} ${node.name}`, "aria-label": `${action[0].toUpperCase()}${action.slice(1)} ${visible(node.name)}`,
      }))));
  }));
}

async function poll() {
  const answer = await ask("demo/nodes", { wait: 3000 });
  if (answer.ok && answer.data.nodes) nodes = answer.data.nodes;
  draw();
}

// Does something to a node; the refusal is shown as the demo says it.
async function act(action, name) {
  const answer = await ask(`demo/${action}/${encodeURIComponent(name)}`, { method: "POST", headers: { "Huskv-Demo": "1" } });
  if (answer.ok) nodes = answer.data.nodes;
  fill(said, answer.ok ? null : refusal(answer, `${action} ${visible(name)}`));
  const focused = document.activeElement && document.activeElement.dataset.focus;
  draw(true);
  // The button that was pressed cannot be pressed again: the focus goes to the one that can.
  if (focused === `demo ${action} ${name}`) {
    [...rows.querySelectorAll("button:not(:disabled)")].find((one) => one.dataset.focus.endsWith(` ${name}`))?.focus();
  }
  if (answer.ok) announce(`${visible(name)}: ${action} done.`);
  refresh();
  return answer.ok;
}

// ---- the tour ----

const pause = (ms) => new Promise((done) => { setTimeout(done, ms); });
let run = 0;

function begin() {
  run += 1;
  const mine = run;
  starter.disabled = true;
  fill(said);
  tour(mine).catch((problem) => run === mine && step("The tour ends here", [visible(problem.message)], "Close").then(end));
}

function end() {
  run += 1;
  fill(stage);
  starter.disabled = false;
  starter.focus();
}

// Shows a step; returns once its button is pressed, or at once where it has none.
function step(title, parts, next) {
  return new Promise((done) => {
    // Once: what it begins may take a while.
    const go = next ? button(next, () => { go.disabled = true; done(); }, { class: "main" }) : null;
    const stop = next === "Close" ? null : button("End the tour", end);
    // Where nothing is to be pressed but the end, a key that was pressed twice must not end the tour.
    const heading = h("h3", { tabindex: "-1" }, title);
    fill(stage, heading, parts.map((part) => h("p", {}, part)), h("div", { class: "row tight" }, go, stop));
    (go || heading).focus();
    if (!go) done();
  });
}

// Asks until the cluster is as is wanted; null once the tour was ended.
async function until(mine, wanted, what) {
  for (const begun = performance.now(); performance.now() - begun < WAIT_MS; await pause(150)) {
    if (run !== mine) return null;
    await refresh();
    if (run !== mine) return null;
    if (state.problem && (state.problem.status === 401 || state.problem.status === 403)) throw new Error(state.problem.body.detail || "The node wants a token.");
    const found = state.overview && !state.problem && wanted(state.overview);
    if (found) return found;
  }
  throw new Error(`After a minute ${what}. The log of a node says more.`);
}

const member = (all, name) => all.members.find((one) => one.name === name);
const seconds = (from) => `${((performance.now() - from) / 1000).toFixed(1)} s`;
const strong = (name) => h("b", {}, isolated(name));

async function reasonOf(from, to) {
  const answer = await ask("cluster/events?limit=200");
  const all = answer.ok && answer.data.events ? answer.data.events : [];
  const event = all.findLast((one) => one.kind === "leader_changed" && one.from === from && one.to === to);
  return event ? ["The event that ", isolated(event.node), " has noted: \u201c", visible(event.detail), "\u201d."] : ["No node has noted why yet."];
}

async function tour(mine) {
  const stopped = () => run !== mine;
  if (nodes.some((node) => node.state !== "none")) {
    await step("Before the tour", ["Heal all nodes first: the tour needs one more than a majority."], "Close");
    return stopped() || end();
  }
  await step("The tour begins", ["It waits until a node leads."]);
  const old = (await until(mine, (all) => all.leader && { name: all.leader }, "no node leads"))?.name;
  if (stopped()) return;
  await step("1 of 5: a leader", [[strong(old), " leads. Every write goes through it, whichever node it is sent to, and counts once a majority has it on disk."],
    ["The tour writes the key ", h("code", {}, TOUR_KEY), " first."]], "Write it");
  if (stopped()) return;
  const value = `written while ${old} led`;
  const written = await ask(`store/${TOUR_KEY}`, { method: "PUT", headers: { "Content-Type": "text/plain; charset=utf-8" }, body: value });
  if (stopped()) return;
  if (!written.ok) throw new Error(`The write failed: ${written.body.detail || written.status}`);
  await step("2 of 5: the kill", [["It is on the disks of a majority, at index ", h("code", {}, written.headers.get("x-raft-index") || "?"), "."],
    [`Now the process of `, strong(old), " is ended with SIGKILL, as by a power cut. It says goodbye to no one."]], `Kill ${visible(old)}`);
  if (stopped()) return;
  const killed = await act("kill", old);
  if (stopped()) return;
  if (!killed) throw new Error("The node was not killed.");
  const begun = performance.now();
  await step("3 of 5: nobody leads", ["The others hear no heartbeat. Each waits a random time of one to two seconds; the first to run out asks the others for their votes."]);
  const next = (await until(mine, (all) => all.leader && all.leader !== old && { name: all.leader }, "no other node leads"))?.name;
  if (stopped()) return;
  const took = seconds(begun);
  draw();
  const read = await ask(`store/${TOUR_KEY}?raw`);
  const kept = read.ok && read.text === value;
  const reason = await reasonOf(old, next);
  if (stopped()) return;
  await step("4 of 5: a new leader", [[strong(next), ` leads, ${took} after the kill.`], reason,
    kept ? ["The key is still there: \u201c", visible(read.text), "\u201d."] : "The key cannot be read yet.",
    ["With three nodes none may fail now. Healing starts ", strong(old), " again, on the data that it had."]], `Heal ${visible(old)}`);
  if (stopped()) return;
  const restarted = await act("heal", old);
  if (stopped()) return;
  if (!restarted) throw new Error("The node was not started again.");
  const healed = performance.now();
  await step("5 of 5: it comes back", [[strong(old), " reads its disk, finds that the term is over in which it led, and follows. What it missed is sent to it."]]);
  const back = await until(mine, (all) => { const one = member(all, old); return one && one.ready && one.reachable !== false && one.role === "follower" && { text: all.tolerance }; }, `${visible(old)} is not back`);
  if (stopped()) return;
  await poll();
  if (stopped()) return;
  await step("The end", [[strong(old), ` follows again, ${seconds(healed)} after its start: `, visible(back.text || ""), "."],
    ["What happened, as each node saw it, is in the ", h("a", { href: "#timeline" }, "timeline"), ". Pause and cut end a lead too, and give other reasons there."]], "Close");
  if (!stopped()) end();
}

poll();
setInterval(() => { if (!document.hidden) poll(); }, POLL_MS);
