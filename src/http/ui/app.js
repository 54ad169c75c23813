// The page of a huskv node: five views of its cluster. No framework, no build step.
//
// Keys, values and names enter the document by textContent alone. Every request goes to the node that served the page, and the token, if
// there is one, in the header Authorization.

const base = new URL("../", location.href);
const POLL_MS = 2000;
const LISTED = 200;
const SHOWN_BYTES = 256 * 1024;
const HEX_BYTES = 4096;

// ---- elements ----

const $ = (id) => document.getElementById(id);

function put(to, parts) {
  for (const part of parts.flat(Infinity)) {
    if (part === null || part === undefined || part === false) continue;
    to.append(part instanceof Node ? part : document.createTextNode(String(part)));
  }
  return to;
}

function setAll(made, attributes) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "value") made.value = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  return made;
}

const h = (tag, attributes, ...parts) => put(setAll(document.createElement(tag), attributes), parts);
const svg = (tag, attributes, ...parts) => put(setAll(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes), parts);

// Replaces what is in an element; the focus stays on the control with the same data-focus.
function fill(element, ...parts) {
  const within = element.contains(document.activeElement) ? document.activeElement.dataset.focus : undefined;
  element.replaceChildren();
  put(element, parts);
  if (within) [...element.querySelectorAll("[data-focus]")].find((one) => one.dataset.focus === within)?.focus();
}

// A second press does nothing while what the first began is under way, also where the button was drawn anew meanwhile.
let underWay = null;
function button(text, onclick, more) {
  const made = h("button", { type: "button", ...more }, text);
  made.addEventListener("click", async (event) => {
    const mine = made.dataset.focus || made;
    if (underWay === mine) return;
    underWay = mine;
    try { await onclick(event); } finally { if (underWay === mine) underWay = null; }
  });
  return made;
}
const field = (label, control) => h("label", { class: "field" }, label, control);
const chip = (kind, text) => h("span", { class: `chip ${kind}` }, text);

// ---- text ----

// A name with what a reader cannot see, or what would turn the direction of the text, written out.
const written = (one) => `\\u{${one.codePointAt(0).toString(16)}}`;
function visible(name) {
  return String(name).replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0]/gu, written);
}
// Spaces that HTML would fold away, or that look like others, are written out, too.
const named = (name) => visible(name).replace(/^ | $| {2,}|[^\P{Zs} ]/gu, (spaces) => [...spaces].map(written).join(""));
const isolated = (name) => h("bdi", {}, named(name));
// Lines stay lines.
const visibleText = (text) => text.replace(/[^\n\t\r]+|\r(?!\n)/g, visible);

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const count = (n) => (typeof n === "number" ? whole.format(n).replace(/,/g, "\u202f") : "\u2013");
function bytes(n) {
  if (typeof n !== "number") return "\u2013";
  let unit = 0;
  while (n >= 1024 && unit < 4) { n /= 1024; unit += 1; }
  return `${unit && n < 10 ? n.toFixed(1) : Math.round(n)} ${["B", "KiB", "MiB", "GiB", "TiB"][unit]}`;
}
function span(seconds) {
  if (typeof seconds !== "number") return "\u2013";
  const [d, hr, m, s] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60, Math.floor(seconds % 60)];
  return d ? `${d} d ${hr} h` : hr ? `${hr} h ${m} min` : m ? `${m} min ${s} s` : `${s} s`;
}
const ms = (n) => (typeof n !== "number" ? "\u2013" : n > 0 && n < 10 ? `${n.toFixed(1)} ms` : `${count(n)} ms`);
const clock = (date, fine) => date.toLocaleTimeString("en-GB") + (fine ? `.${String(date.getMilliseconds()).padStart(3, "0")}` : "");

// Says a change to screen readers, in a region that is not seen.
function announce(text) { $("live").textContent = text; }

// ---- requests ----

let memoryToken = "";
const TOKEN = "huskv-token";
function token() {
  try { return sessionStorage.getItem(TOKEN) || memoryToken; } catch { return memoryToken; }
}
function keepToken(secret, inTab) {
  memoryToken = secret;
  try {
    if (secret && inTab) sessionStorage.setItem(TOKEN, secret);
    else sessionStorage.removeItem(TOKEN);
  } catch { /* Without storage it stays in memory. */ }
}

const headersOf = (more) => (token() ? { ...more, Authorization: `Bearer ${token()}` } : { ...more });

// Sends a request. An answer has status, ok, headers and data (or bytes); one that never came has status 0.
async function ask(path, { method = "GET", headers, body, wait = 8000, raw, slow } = {}) {
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(), wait);
  try {
    const answer = await fetch(new URL(path, base), {
      method, body, headers: headersOf(headers), signal: stop.signal, cache: "no-store", credentials: "same-origin", redirect: "error",
    });
    const result = { status: answer.status, ok: answer.ok, headers: answer.headers };
    if (raw && answer.ok) result.bytes = new Uint8Array(await answer.arrayBuffer());
    else {
      const text = result.text = await answer.text();
      try { result.body = JSON.parse(text); } catch { result.body = { detail: text.slice(0, 500) }; }
      result.data = result.ok && result.body && result.body.data !== undefined ? result.body.data : result.body;
      result.message = result.body && result.body.message;
    }
    reached(true);
    // `huskv demo` serves this page too, and adds its buttons to it.
    if (answer.headers.has("huskv-demo")) import("./demo.js");
    if (answer.status === 401) wantToken(result.body && result.body.detail);
    return result;
  } catch (error) {
    const late = error.name === "AbortError";
    if (!late || !slow) reached(false);
    const why = late ? `no answer within ${wait / 1000} s` : "the node does not answer";
    return { status: 0, ok: false, body: { title: "No answer", detail: why }, headers: new Headers() };
  } finally {
    clearTimeout(timer);
  }
}

// What the node refused, as it said it.
function refusal(answer, what) {
  const problem = answer.body || {};
  const code = problem.code || (answer.status ? "" : "no_answer");
  return h("div", { class: "note bad", role: "alert" },
    h("p", {}, what ? `${what}: ` : "", h("b", {}, problem.title || "Refused"), " ",
      chip("bad", `${answer.status || "no status"}${code ? ` ${code}` : ""}`), " ",
      problem.outcome ? chip("plain", `outcome ${problem.outcome}`) : null),
    h("p", {}, visible(problem.detail || problem.error || "")));
}
const success = (...parts) => h("div", { class: "note good", role: "status" }, h("p", {}, "\u2713 ", parts));

// A stream of server-sent events by fetch, so that the token is in a header. There is one at a time.
let openStream = null;
function closeStream() {
  if (openStream) openStream.abort();
  openStream = null;
}
async function stream(path, { last, on, ended }) {
  closeStream();
  const mine = new AbortController();
  openStream = mine;
  let silence;
  const alive = () => {
    clearTimeout(silence);
    silence = setTimeout(() => mine.abort("silent"), 15000);
  };
  try {
    alive();
    const headers = headersOf({ Accept: "text/event-stream", ...(last ? { "Last-Event-ID": last } : {}) });
    const answer = await fetch(new URL(path, base), { headers, signal: mine.signal, cache: "no-store" });
    if (!answer.ok || !answer.body) {
      const body = await answer.json().catch(() => ({}));
      if (answer.status === 401) wantToken(body.detail);
      return ended({ status: answer.status, body });
    }
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "", event = {};
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      alive();
      text += value;
      let at;
      while ((at = text.indexOf("\n")) >= 0) {
        const line = text.slice(0, at).replace(/\r$/, "");
        text = text.slice(at + 1);
        if (line === "") {
          if (event.data !== undefined) on(event);
          event = {};
        } else if (!line.startsWith(":")) {
          const colon = line.indexOf(":");
          const name = colon < 0 ? line : line.slice(0, colon);
          const rest = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
          event[name] = name === "data" && event.data !== undefined ? `${event.data}\n${rest}` : rest;
        }
      }
    }
    ended({ status: 200, body: { detail: "the stream ended" } });
  } catch {
    if (openStream === mine || mine.signal.reason === "silent") ended({ status: 0, body: { detail: "the stream broke" } });
  } finally {
    clearTimeout(silence);
  }
}

// ---- whether the node answers ----

const state = { overview: null, problem: null, failures: 0, lost: false, roles: new Map() };

function reached(ok) {
  state.failures = ok ? 0 : state.failures + 1;
  const lost = state.failures >= 1;
  if (ok) state.answered = new Date();
  $("pulse").textContent = lost ? "\u2715 no answer" : `\u25cf ${clock(state.answered)}`;
  $("pulse").className = lost ? "pulse bad" : "pulse";
  if (lost === state.lost) return;
  state.lost = lost;
  if (view && view.update) view.update();
  if (!lost) {
    fill($("banner"));
    announce("The node answers again.");
    return;
  }
  const asked = state.overview ? state.overview.asked : location.host;
  const others = (state.overview ? state.overview.members : []).filter((one) => one.name !== asked);
  fill($("banner"),
    h("b", {}, `${visible(asked)} does not answer. `), state.answered ? `What is shown is as of ${clock(state.answered)} or before. ` : "", "This page tries again every two seconds.",
    others.length ? h("ul", {}, others.map((one) => {
      const to = pageOf(one);
      return to ? h("li", {}, "Open ", h("a", { href: to, rel: "noreferrer" }, `the page of ${visible(one.name)}`), ` (${one.http_address})`,
        one.reachable === false ? ", which did not answer either" : "") : null;
    })) : null,
    others.length && token() ? h("p", { class: "small" }, "Another node is another origin, so its page asks for the token again.") : null);
}

// The page of another member; null where its address is none.
function pageOf(member) {
  try {
    const to = new URL(`${location.protocol}//${member.http_address}/ui/${location.hash}`);
    return to.host && !to.username ? to.href : null;
  } catch { return null; }
}

// ---- the token ----

let refusedToken = null;
function wantToken(detail) {
  if (refusedToken === token() || $("dialog").open) return;
  refusedToken = token();
  tokenDialog(detail);
}
function tokenDialog(why) {
  const secret = h("input", { type: "password", autocomplete: "off", spellcheck: "false", value: token() });
  const keep = h("input", { type: "checkbox", checked: true });
  openDialog("Token", [
    why ? h("p", { class: "note warn" }, visible(why)) : null,
    field("Secret of a token (docs/security.md)", secret),
    h("p", {}, h("label", {}, keep, " keep it in this tab until it is closed (sessionStorage); else it is gone with a reload")),
  ], "Use it", () => {
    keepToken(secret.value.trim(), keep.checked);
    refusedToken = null;
    showTokenState();
    refresh();
    route();
  }, [button("Forget it", () => { keepToken("", false); showTokenState(); $("dialog").close(); refresh(); })]);
}
function showTokenState() { $("token").textContent = token() ? "Token \u2713" : "Token"; }

// A modal dialog: the browser keeps the focus in it and gives it back.
function openDialog(title, parts, action, onaction, others = [], check) {
  const dialog = $("dialog");
  const confirm = h("button", { class: "main", type: "submit" }, action);
  const form = h("form", { method: "dialog" }, h("h2", { id: "dialog-title" }, title), parts,
    h("div", { class: "row" }, others, button("Cancel", () => dialog.close()), confirm));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (confirm.disabled) return;
    dialog.close();
    onaction();
  });
  if (check) {
    const judge = () => { confirm.disabled = !check(); };
    form.addEventListener("input", judge);
    judge();
  }
  fill(dialog, form);
  if (!dialog.open) dialog.showModal();
}

// ---- the cluster, which every view knows ----

let refreshing = false;
async function refresh() {
  if (refreshing) return;
  refreshing = true;
  const answer = await ask("cluster/overview", { wait: 5000 });
  refreshing = false;
  if (answer.ok) {
    state.problem = null;
    // A cluster id has up to 64 bits, of which a number of JavaScript keeps 53.
    const digits = /"cluster_id":\s*"?(\d+)/.exec(answer.text);
    answer.data.cluster_id = digits ? digits[1] : "none yet";
    noteChanges(answer.data);
    state.overview = answer.data;
    state.at = new Date();
    const { asked, cluster_id: id } = answer.data;
    fill($("identity"), visible(asked), h("span", { class: "id" }, ` \u00b7 cluster ${visible(id ?? "none")}`));
    document.title = `${visible(asked)} \u00b7 huskv`;
  } else if (answer.status) {
    state.problem = answer;
  }
  if (view && view.update) view.update();
}

// What changed in the cluster since the last time, for screen readers.
function noteChanges(next) {
  const said = [];
  if (state.overview && state.overview.leader !== next.leader) said.push(next.leader ? `${next.leader} leads.` : "No node leads.");
  for (const one of next.members) {
    const before = state.roles.get(one.name);
    if (before !== undefined && before !== one.reachable) said.push(`${one.name} is ${one.reachable ? "reachable again" : "unreachable"}.`);
    state.roles.set(one.name, one.reachable);
  }
  if (said.length) announce(said.join(" "));
}

const SIGNS = { leader: "\u2605", follower: "\u25cf", learner: "\u25d0", candidate: "\u25d4", unreachable: "\u2715" };
const roleOf = (one) => (one.reachable === false ? "unreachable" : String(one.role).toLowerCase());
function roleChip(one) {
  const role = roleOf(one);
  return chip(role === "leader" ? "good" : role === "unreachable" ? "bad" : role === "follower" ? "plain" : "warn", `${SIGNS[role] || "\u25cb"} ${role}`);
}
const fact = (name, ...value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));

function clusterView(main) {
  const body = h("div", {});
  put(main, [h("h1", { tabindex: "-1" }, "Cluster"), body]);
  const lagCell = (one, most) => {
    const lag = one.lag_entries;
    const bar = h("i", {});
    bar.style.width = `${typeof lag === "number" ? Math.min(100, lag && 4 + 96 * Math.log1p(lag) / Math.log1p(Math.max(most, 1000))) : 0}%`;
    return [h("span", { class: "num" }, count(lag)), typeof lag === "number" ? h("span", { class: "bar", "aria-hidden": "true" }, bar) : null];
  };
  const readyCell = (one) => {
    if (one.reachable === false) return h("span", { class: "bad" }, "\u2715 did not answer");
    const moving = one.snapshot;
    const done = moving && moving.total_bytes ? Math.floor(100 * moving.bytes / moving.total_bytes) : null;
    return [one.ready ? h("span", { class: "good" }, "\u2713 ready")
      : h("span", { class: "warn" }, "\u25b2 ", one.not_ready ? `${one.not_ready.code}: ${visible(one.not_ready.detail)}` : "not ready"),
    moving ? h("div", { class: "small" }, `receives a snapshot: ${bytes(moving.bytes)} of ${bytes(moving.total_bytes)}`,
      done === null ? "" : ` (${done} %)`, `, ${bytes(moving.bytes_per_second)}/s`) : null];
  };
  const disk = (one) => [h("span", { class: "num" }, bytes(one.disk_free_bytes)),
    typeof one.disk_total_bytes === "number" ? h("div", { class: "dim small" }, `of ${bytes(one.disk_total_bytes)}`) : ""];
  const columns = [
    ["Member", "", (one, all) => [h("b", {}, isolated(one.name)), one.name === all.asked ? h("span", { class: "dim small" }, " asked") : "",
      h("div", { class: "dim small" }, pageOf(one) && one.name !== all.asked ? h("a", { href: pageOf(one), rel: "noreferrer", "data-focus": `to ${one.name}` }, one.http_address) : one.http_address)]],
    ["Role", "", (one) => roleChip(one)],
    ["Ready", "", (one) => readyCell(one)],
    ["Term", "r", (one) => h("span", { class: "num" }, count(one.term))],
    ["Applied", "r", (one) => h("span", { class: "num" }, count(one.applied_index))],
    ["Lag, entries", "r", (one, all, most) => lagCell(one, most)],
    ["Round trip", "r", (one) => h("span", { class: "num" }, ms(one.round_trip_ms))],
    ["Free disk", "r", (one) => disk(one)],
    ["Uptime", "r", (one) => h("span", { class: "num" }, span(one.uptime_seconds))],
    ["Version", "", (one) => h("span", { class: "num" }, one.version ? visible(one.version) : "\u2013")],
  ];
  return { update() {
    const all = state.overview;
    if (!all) return fill(body, state.problem ? refusal(state.problem, "GET /cluster/overview") : h("p", { class: "dim" }, "Asking the node\u2026"));
    const spare = all.failure_tolerance;
    const [kind, sign] = typeof spare !== "number" || !all.leader ? ["bad", "\u2715"] : spare > 0 ? ["good", "\u2713"] : ["warn", "\u25b2"];
    const most = Math.max(...all.members.map((one) => one.lag_entries || 0));
    const known = (state.lost || state.problem) && state.at ? `As of ${clock(state.at)}${state.lost ? ", before the node stopped answering" : ""}: ` : "";
    const sentence = all.tolerance && known ? known + all.tolerance : all.tolerance ? all.tolerance[0].toUpperCase() + all.tolerance.slice(1) : "The tolerance is not known";
    fill(body,
      state.problem ? refusal(state.problem, "GET /cluster/overview") : null,
      h("p", { class: `verdict ${known ? "dim" : kind}` }, h("span", { "aria-hidden": "true" }, known ? "?" : sign), h("span", {}, visible(sentence).replace(/\.?$/, "."))),
      h("dl", { class: "facts" }, fact("Leader", all.leader ? isolated(all.leader) : h("span", { class: "bad" }, "\u2715 none")), fact("Term", count(all.term)),
        fact("Voters", count(all.voters)), fact("May still fail", typeof spare === "number" ? count(spare) : "not known"), fact("Cluster", visible(all.cluster_id ?? "none"))),
      h("div", { class: "panel wide" }, h("table", { class: "cards", role: "table", "aria-label": "Members" },
        h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, columns.map(([name, side]) => h("th", { scope: "col", role: "columnheader", class: side }, name)))),
        h("tbody", { role: "rowgroup" }, all.members.map((one) => h("tr", { role: "row" },
          columns.map(([name, side, cell]) => h("td", { role: "cell", class: side, "data-label": name }, h("div", {}, cell(one, all, most))))))))));
  } };
}

// ---- timeline ----

const ownRow = (overview) => overview?.members.find((one) => one.name === overview.asked);
const isOutside = (one) => ["removed", "joining"].includes(one?.not_ready?.code);

const GROUPS = {
  "who leads": ["leader_changed", "election_started", "election_won", "election_lost"],
  "members": ["member_joined", "member_promoted", "member_removed", "member_moved", "join_refused", "peer_lost", "peer_found"],
  "starts and stops": ["started", "draining"],
  "snapshots": ["checkpoint", "snapshot_progress", "snapshot_sent", "snapshot_failed", "snapshot_installed"],
  "disk and load": ["slow_sync", "space_short", "space_restored", "overload_began", "overload_ended"],
};
const BAD_KINDS = new Set(["peer_lost", "join_refused", "space_short", "overload_began", "slow_sync", "election_lost", "snapshot_failed"]);
const GOOD_KINDS = new Set(["peer_found", "space_restored", "overload_ended", "election_won", "member_joined", "member_promoted", "snapshot_installed"]);
function timelineView(main) {
  const seen = new Map();
  // Of all nodes through this one; of this one alone where it does not know the question.
  let merged = true, missing = [], polls = 0;
  let follows = true, ended = false, answered = false, problem = null, boot = "", last = 0, name = "";
  const list = h("ol", { class: "log", "aria-label": "Events, the newest first" });
  const latest = h("div", {}), note = h("div", {});
  const words = h("input", { type: "search", oninput: () => draw(), "aria-label": "Filter by text" });
  const group = h("select", { onchange: () => draw() }, h("option", { value: "" }, "all"), Object.keys(GROUPS).map((name) => h("option", { value: name }, name)));
  const node = h("select", { onchange: () => draw() }, h("option", { value: "" }, "all"));
  const follow = button("Follow", () => { follows = !follows; follow.setAttribute("aria-pressed", String(follows)); if (follows) load(); }, { "aria-pressed": "true" });
  put(main, [h("h1", { tabindex: "-1" }, "Timeline"), latest,
    h("div", { class: "row" }, h("label", { class: "field grow" }, "Text", words), field("About", group), field("Node", node), follow),
    note, h("div", { class: "panel" }, list)]);

  function draw() {
    const all = [...seen.values()].sort((a, b) => (a.at !== b.at ? (a.at < b.at ? 1 : -1) : a.node !== b.node ? (a.node < b.node ? 1 : -1) : b.id - a.id));
    const text = words.value.toLowerCase();
    const shown = all.filter((one) => (!group.value || GROUPS[group.value].includes(one.kind)) && (!node.value || one.node === node.value)
      && (!text || `${one.node} ${one.kind} ${one.detail} ${one.reason || ""}`.toLowerCase().includes(text))).slice(0, 500);
    // The node that lost its lead knows best why, and it may have noted it a moment after the others.
    // One that has started or joined since knows nothing of it.
    const newest = all.find((one) => one.kind === "leader_changed");
    const same = newest ? all.filter((one) => one.kind === "leader_changed" && one.to === newest.to && one.term === newest.term) : [];
    const change = same.find((one) => one.node === one.from) || same.findLast((one) => one.reason !== "restart") || newest;
    // A node outside of a cluster knows of the leader that it followed, and not who leads.
    fill(latest, change && !isOutside(ownRow(state.overview)) ? h("div", { class: "panel" }, h("h2", {}, change.to ? ["Leader: ", isolated(change.to)] : "No leader",
      change.from && change.from !== change.to ? h("span", { class: "dim" }, [" after ", isolated(change.from)]) : "", h("span", { class: "dim small" }, ` \u00b7 since ${clock(new Date(same[same.length - 1].at))}`)),
    h("p", {}, visible(change.detail || ""), change.reason ? [" ", chip("plain", visible(change.reason).replace(/_/g, " "))] : null)) : null);
    fill(note, problem ? refusal(problem, merged ? "GET /cluster/events" : "GET /events") : null,
      merged && missing.length ? h("p", { class: "note warn" }, "\u25b2 Without the events of ", missing.map((one, at) => [at ? ", " : "", isolated(one)]),
        missing.length > 1 ? ", which do not answer or are of an earlier version." : ", which does not answer or is of an earlier version.") : null, !merged && name ? h("p", { class: "dim" }, ["What happened to ", isolated(name), ", and why. Every node keeps its own events",
      others().length ? [": ", others().map((one, at) => [at ? ", " : "", h("a", { href: pageOf(one), rel: "noreferrer", "data-focus": `to ${one.name}` }, isolated(one.name))])] : "", "."]) : null);
    fill(list, shown.map((one) => {
      const at = new Date(one.at);
      const kind = BAD_KINDS.has(one.kind) ? ["bad", "\u25b2 "] : GOOD_KINDS.has(one.kind) ? ["good", "\u2713 "] : one.kind === "leader_changed" ? ["good", "\u2605 "] : ["plain", ""];
      return h("li", { class: one.kind === "leader_changed" ? "key" : one.fresh ? "fresh" : "" },
        h("time", { class: "num", datetime: one.at, title: one.at }, isNaN(at) ? visible(one.at) : clock(at, true)), h("span", {}, h("b", {}, isolated(one.node)), h("span", { class: "num dim small" }, ` term ${count(one.term)}`)),
        chip(kind[0], `${kind[1]}${visible(one.kind).replace(/_/g, " ")}`),
        h("span", {}, visible(one.detail || "")));
    }));
    for (const one of all) one.fresh = false;
    if (!shown.length) fill(list, h("li", { class: "dim" }, all.length ? "No event matches the filter." : answered ? "No events yet." : state.lost || problem ? "No events were read." : "Asking the node\u2026"));
  }

  const others = () => (state.overview ? state.overview.members : []).filter((one) => one.name !== name && pageOf(one));
  const keyOf = (one) => `${one.node}/${one.at}/${one.id}`;
  function add(events, first) {
    let change = null;
    for (const one of events) {
      if (seen.has(keyOf(one))) continue;
      seen.set(keyOf(one), { ...one, fresh: !first });
      if (one.kind === "leader_changed") change = one;
      if (![...node.options].some((option) => option.value === one.node)) node.append(h("option", { value: one.node }, visible(one.node)));
    }
    if (!first && change) announce(`${change.detail || "The leader changed."}`);
    if (seen.size > 5000) for (const id of [...seen.keys()].slice(0, seen.size - 4000)) seen.delete(id);
  }

  // The latest hundred are enough, unless something before them may be new: a node that was missing, or one whose clock is behind.
  async function loadMerged(wide) {
    const answer = await ask(`cluster/events?limit=${wide ? 1000 : 100}`);
    if (ended) return;
    if (answer.status === 404) {
      merged = false;
      return loadOwn();
    }
    problem = answer.ok ? null : answer.status ? answer : problem;
    if (!answer.ok) return;
    answered = true;
    const events = answer.data.events || [], gone = answer.data.missing || [];
    const gap = events.length >= 100 && !seen.has(keyOf(events[0]));
    const back = missing.some((one) => !gone.includes(one));
    missing = gone;
    if (!wide && (gap || back)) return loadMerged(true);
    add(events, seen.size === 0);
  }

  async function loadOwn() {
    const answer = await ask(`events?limit=1000${last ? `&since=${last}` : ""}`);
    if (ended) return;
    problem = answer.ok ? null : answer.status ? answer : problem;
    if (!answer.ok) return;
    answered = true;
    if (answer.data.boot !== boot && boot) {
      // Another start of the process: its ids begin at 1 again.
      [boot, last] = [answer.data.boot, 0];
      return loadOwn();
    }
    boot = answer.data.boot;
    name = answer.data.node || "";
    const events = (answer.data.events || []).map((one) => ({ ...one, node: name }));
    last = Math.max(last, ...events.map((one) => one.id));
    add(events, seen.size === 0);
  }

  let loading = false;
  async function load() {
    if (loading) return;
    loading = true;
    const drawn = () => [problem, seen.size, missing, others().length].join();
    const before = drawn();
    await (merged ? loadMerged(polls++ % 10 === 0) : loadOwn());
    loading = false;
    if (ended) return;
    // What has not changed is not drawn again, so that it can be selected and read.
    const stale = !merged && note.querySelectorAll("a").length !== others().length;
    if (before !== drawn() || stale || !list.children.length) draw();
  }
  load();
  const timer = setInterval(() => { if (follows && !document.hidden) load(); }, POLL_MS);
  return { close() { ended = true; clearInterval(timer); } };
}

// ---- load ----

const CHARTS = [
  ["Requests a second", (n) => count(n), [["puts", "puts"], ["gets", "gets"]]],
  ["Duration of puts", ms, [["put_p50_ms", "p50"], ["put_p99_ms", "p99"]]],
  ["Duration of gets", ms, [["get_p50_ms", "p50"], ["get_p99_ms", "p99"]]],
  ["Syncs of the disk a second", (n) => count(n), [["syncs", "syncs"]]],
];
const [HIGH, LEFT, LOW] = [190, 62, 22];
// Drawn at the width that it has, so that its text keeps its size.
const widthOf = (panel) => Math.max(240, panel.clientWidth - 32);

function niceTop(most) {
  // Half of it is a whole number, too, where it counts.
  if (!(most > 0)) return 2;
  const power = 10 ** Math.floor(Math.log10(most));
  return [2, 4, 10].map((step) => step * power).find((top) => top >= most);
}

function chart([title, unit, series], points, end, cursor, wide) {
  const values = points.flatMap((point) => series.map(([name]) => point[name])).filter((n) => typeof n === "number");
  const top = niceTop(Math.max(0, ...values));
  const x = (at) => LEFT + (wide - LEFT - 6) * (1 - (end - at) / 600);
  const y = (n) => 8 + (HIGH - LOW - 8) * (1 - n / top);
  const paths = series.map(([name], which) => {
    let path = "", pen = false;
    points.forEach((point, at) => {
      const n = point[name];
      if (typeof n !== "number" || point.at < end - 600) { pen = false; return; }
      path += `${pen ? "L" : "M"}${x(point.at).toFixed(1)} ${y(n).toFixed(1)}`;
      // A second without a neighbour is drawn as a dash, or it would be a line without length.
      if (!pen && typeof points[at + 1]?.[name] !== "number") path += "m-2 0h4";
      pen = true;
    });
    return svg("path", { class: `s${which}`, d: path });
  });
  const last = cursor ? points.reduce((best, point) => (Math.abs(point.at - cursor) < Math.abs(best.at - cursor) ? point : best), points[0]) : points[points.length - 1];
  const most = (name) => { const all = points.map((p) => p[name]).filter((n) => typeof n === "number"); return all.length ? Math.max(...all) : null; };
  const said = series.map(([name, label]) => `${label} ${unit(last ? last[name] : null)}, at most ${unit(most(name))}`).join("; ");
  return [h("h2", {}, title), svg("svg", { viewBox: `0 0 ${wide} ${HIGH}`, role: "img", "aria-label": `${title}, the last ten minutes: ${said}` },
    [0, 0.5, 1].map((part) => [svg("line", { class: part ? "rule" : "base", x1: LEFT, x2: wide - 6, y1: y(part * top), y2: y(part * top) }),
      svg("text", { x: LEFT - 6, y: y(part * top) + 4, "text-anchor": "end" }, unit(part * top))]),
    (wide < 420 ? [10, 5, 0] : [10, 8, 6, 4, 2, 0]).map((minutes) => svg("text", { x: Math.min(x(end - minutes * 60), wide - 14), y: HIGH - 5, "text-anchor": "middle" }, minutes ? `\u2212${minutes} min` : "now")),
    cursor && last ? svg("line", { class: "cursor", x1: x(last.at), x2: x(last.at), y1: 8, y2: HIGH - LOW }) : null, paths),
  h("ul", { class: "legend" }, series.map(([name, label], which) => h("li", {},
    svg("svg", { viewBox: "0 0 28 8", "aria-hidden": "true" }, svg("path", { class: `s${which}`, d: "M0 4H28" })),
    `${label} `, h("b", {}, unit(last ? last[name] : null)), h("span", { class: "dim" }, ` at most ${unit(most(name))}`))),
  cursor && last ? h("li", { class: "dim" }, `at ${clock(new Date(last.at * 1000))}`) : null)];
}

function loadView(main) {
  const points = new Map();
  const panels = CHARTS.map(() => h("div", { class: "panel chart" }));
  const note = h("div", {}), about = h("p", { class: "dim" }), rows = h("tbody", {});
  const table = h("details", { class: "panel" }, h("summary", {}, "The last minute as a table"), h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "The last minute" },
    h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Time"), CHARTS.flatMap(([title, , series]) => series.map(([, label]) => h("th", { scope: "col", class: "r" }, /puts$/.test(title) ? `put ${label}` : /gets$/.test(title) ? `get ${label}` : label))))), rows)));
  put(main, [h("h1", { tabindex: "-1" }, "Load"), about, note, h("div", { class: "grid" }, panels), h("p", {}), table]);
  let cursor = null, ended = false, name = "";
  function draw() {
    const all = [...points.values()].sort((a, b) => a.at - b.at);
    const end = all.length ? all[all.length - 1].at : Math.floor(Date.now() / 1000);
    about.textContent = name ? `${visible(name)}, the last ten minutes, second by second. Other nodes have figures of their own.` : "";
    panels.forEach((panel, at) => fill(panel, chart(CHARTS[at], all, end, cursor, widthOf(panel))));
    if (table.open) fill(rows, all.slice(-60).reverse().map((point) => h("tr", {}, h("td", { class: "num" }, clock(new Date(point.at * 1000))),
      CHARTS.flatMap(([, unit, series]) => series.map(([key]) => h("td", { class: "num r" }, unit(point[key])))))));
  }
  for (const panel of panels) {
    panel.addEventListener("pointermove", (event) => {
      const drawing = panel.querySelector("svg").getBoundingClientRect();
      const part = ((event.clientX - drawing.left) / drawing.width * widthOf(panel) - LEFT) / (widthOf(panel) - LEFT - 6);
      const end = Math.max(0, ...points.keys());
      cursor = part >= 0 && part <= 1 ? end - 600 * (1 - part) : null;
      draw();
    });
    panel.addEventListener("pointerleave", () => { cursor = null; draw(); });
  }
  table.addEventListener("toggle", draw);
  let loading = false;
  async function load() {
    if (loading) return;
    loading = true;
    const answer = await ask(`load?seconds=${points.size ? 30 : 600}`);
    loading = false;
    if (ended) return;
    fill(note, answer.ok || !answer.status ? null : refusal(answer, "GET /load"));
    if (answer.ok) {
      name = answer.data.node || "";
      for (const point of answer.data.points || []) points.set(point.at, point);
      const newest = Math.max(0, ...points.keys());
      for (const at of points.keys()) if (at < newest - 600) points.delete(at);
    }
    draw();
  }
  load();
  const timer = setInterval(() => { if (!document.hidden) load(); }, POLL_MS);
  return { close() { ended = true; clearInterval(timer); } };
}

// ---- keys ----

// The path of a key. A browser folds the segments `.` and `..` away, however they are written.
const pathOf = (key) => (key === "." || key === ".." ? null : `store/${encodeURIComponent(key)}`);
const quoted = (text) => `'${String(text).replace(/'/g, "'\\''")}'`;
const curlOf = (path, more = []) => ["curl", ...more, ...(token() ? ["-H", "\"Authorization: Bearer $HUSKV_TOKEN\""] : []), quoted(new URL(path, base).href)].join(" ");

// The path as one would write it: slashes stay where no segment is empty or folded away.
function readable(key) {
  const plain = key.split("/").every((part) => part && part !== "." && part !== "..");
  return plain ? `store/${key.split("/").map(encodeURIComponent).join("/")}` : pathOf(key);
}

// JSON with line breaks, token by token: numbers keep every digit, which parsing would not.
function prettyJson(text) {
  try { JSON.parse(text); } catch { return null; }
  let out = "", depth = 0;
  const line = () => `\n${"  ".repeat(depth)}`;
  for (let at = 0; at < text.length; at += 1) {
    const one = text[at];
    if (one === "\"") {
      let end = at + 1;
      while (text[end] !== "\"") end += text[end] === "\\" ? 2 : 1;
      out += text.slice(at, end + 1);
      at = end;
    } else if (one === "{" || one === "[") {
      const rest = /^\s*[}\]]/.exec(text.slice(at + 1, at + 200));
      if (rest) { out += one + rest[0].trim(); at += rest[0].length; } else { depth += 1; out += one + line(); }
    } else if (one === "}" || one === "]") { depth -= 1; out += line() + one; }
    else if (one === ",") out += `,${line()}`;
    else if (one === ":") out += ": ";
    else if (!/\s/.test(one)) out += one;
  }
  return out;
}

function hexOf(data) {
  const lines = [];
  for (let at = 0; at < Math.min(data.length, HEX_BYTES); at += 16) {
    const part = [...data.subarray(at, Math.min(at + 16, HEX_BYTES))];
    const hex = part.map((one) => one.toString(16).padStart(2, "0")).join(" ");
    lines.push(`${at.toString(16).padStart(8, "0")}  ${hex.padEnd(47)}  ${part.map((one) => (one > 31 && one < 127 ? String.fromCharCode(one) : ".")).join("")}`);
  }
  return lines.join("\n") || "(no bytes)";
}
function textOf(data) {
  try { return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(data); } catch { return null; }
}

// The line that does the same in a terminal, with a button that copies it.
function curlLine(command, name) {
  const line = h("input", { type: "text", readonly: true, value: command, "aria-label": `${name}, as curl` });
  return h("div", { class: "curl" }, line, button("Copy as curl", async (event) => {
    line.select();
    // Without HTTPS only localhost has a clipboard for pages; the selected text can be copied by hand.
    try { await navigator.clipboard.writeText(command); event.target.textContent = "Copied"; announce("Copied."); }
    catch { event.target.textContent = "Selected"; announce("Selected; copy it with the keyboard."); }
  }));
}

// Keys and folders below a prefix, from a place on. A folder is skipped by one request, however many keys are in it.
async function listPage(prefix, folds, from, stop) {
  const rows = [];
  let { start = "", cursor = "" } = from;
  for (let requests = 0; rows.length < LISTED && requests < 60 && !stop(); requests += 1) {
    const query = new URLSearchParams({ prefix, keys: "true", limit: String(LISTED - rows.length) });
    if (start) query.set("start", start);
    if (cursor) query.set("cursor", cursor);
    const answer = await ask(`store?${query}`);
    if (!answer.ok) return { rows, answer };
    for (const key of answer.data.items) {
      const cut = folds ? key.indexOf("/", prefix.length) : -1;
      const row = cut < 0 ? { key } : { folder: key.slice(0, cut + 1) };
      const last = rows[rows.length - 1];
      if (row.folder === undefined || !last || last.folder !== row.folder) rows.push(row);
    }
    cursor = answer.data.next_cursor;
    if (!cursor) return { rows, next: null };
    const last = rows[rows.length - 1];
    // The character behind "/" in the order of bytes is "0".
    if (last.folder !== undefined) { start = `${last.folder.slice(0, -1)}0`; cursor = ""; }
  }
  return { rows, next: { start, cursor } };
}

function keysView(main, parameters) {
  let prefix = parameters.get("prefix") || "", places = [{}], folds = true, ended = false, run = 0, chosen = null, watching = null;
  const box = h("input", { type: "text", value: prefix, spellcheck: "false", autocapitalize: "off", autocomplete: "off", placeholder: "all keys" });
  const fold = h("input", { type: "checkbox", checked: true, onchange: () => { folds = fold.checked; first(); } });
  const words = h("input", { type: "search", spellcheck: "false", autocomplete: "off", placeholder: "part of a name" });
  const names = h("ul", { class: "names", "aria-label": "Keys" }), crumbs = h("div", { class: "crumbs", role: "navigation", "aria-label": "Prefix" });
  const note = h("div", {}), pages = h("div", { class: "row tight" }), detail = h("section", { class: "panel", "aria-label": "Key" });
  const feed = h("ol", { class: "log", role: "log", "aria-label": "Changes, the newest first", "aria-live": "off" }), feedBox = h("div", { class: "feed", hidden: true, tabindex: "0" }, feed), feedNote = h("div", {});
  const watch = button("Watch live", () => toggleWatch(), { "aria-pressed": "false" });
  put(main, [h("h1", { tabindex: "-1" }, "Keys"),
    h("form", { class: "row", onsubmit: (event) => { event.preventDefault(); prefix = box.value; first(); } },
      h("label", { class: "field grow" }, "Prefix", box), h("button", { type: "submit", class: "main" }, "List"), h("label", { class: "check" }, fold, " fold at /"), watch, button("New key", () => create())),
    h("form", { class: "row", onsubmit: (event) => { event.preventDefault(); search(); } },
      h("label", { class: "field grow" }, "Search in names", words), h("button", { type: "submit" }, "Search")),
    feedNote, feedBox,
    h("div", { class: "keys" }, h("section", { class: "panel", "aria-label": "Names" }, crumbs, note, names, h("p", {}), pages), detail)]);
  names.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const all = [...names.querySelectorAll("button")], at = all.indexOf(document.activeElement);
    if (!step || at < 0) return;
    event.preventDefault();
    all[at + step]?.focus();
  });
  const idle = () => fill(detail, h("p", { class: "dim" }, "Choose a key to see its value."));
  idle();

  function showCrumbs() {
    const parts = prefix.split("/").slice(0, -1);
    fill(crumbs, button("all keys", () => go("")), parts.map((part, at) => ["/", button(part ? named(part) : "(empty)", () => go(`${parts.slice(0, at + 1).join("/")}/`))]),
      prefix && !prefix.endsWith("/") ? h("span", { class: "mono" }, `/ ${named(prefix.split("/").pop())}\u2026`) : null);
  }
  function go(to) { prefix = to; box.value = to; first(true); }
  function first(focus) { places = [{}]; list(focus); if (watching) startWatch(); }

  function showRows(rows, cut) {
    fill(names, rows.map((row) => h("li", {}, row.folder !== undefined
      ? button(null, () => go(row.folder), { title: "folder" })
      : button(null, () => open(row.key), { "aria-current": chosen === row.key ? "true" : undefined }))));
    [...names.querySelectorAll("button")].forEach((one, at) => {
      const name = rows[at].folder ?? rows[at].key;
      one.dataset.name = name;
      one.dataset.focus = name;
      put(one, [h("span", { class: "sign", "aria-hidden": "true" }, rows[at].folder !== undefined ? "\u25b8" : ""), rows[at].folder !== undefined ? h("span", { class: "sr" }, "folder ") : null,
        isolated(name.slice(cut).length ? name.slice(cut) : name)]);
    });
  }

  async function list(focus) {
    run += 1;
    const mine = run, began = performance.now();
    history.replaceState(null, "", `#keys?${new URLSearchParams({ prefix, ...(chosen !== null ? { key: chosen } : {}) })}`);
    showCrumbs();
    const { rows, next, answer } = await listPage(prefix, folds, places[places.length - 1], () => ended || run !== mine);
    if (ended || run !== mine) return;
    fill(note, answer ? refusal(answer, "GET /store") : null, rows.length || answer ? null : h("p", { class: "dim" }, prefix ? "No key has this prefix." : "The store has no keys."));
    // Names are shown behind the last "/" of the prefix.
    showRows(rows, folds ? prefix.lastIndexOf("/") + 1 : 0);
    const took = performance.now() - began;
    names.dataset.took = took.toFixed(1);
    fill(pages, button("Previous page", () => { places.pop(); list(); }, { disabled: places.length < 2, "data-focus": "previous" }),
      button("Next page", () => { places.push(next); list(); }, { disabled: !next, "data-focus": "next" }),
      answer ? null : h("span", { class: "dim small" }, `page ${places.length}, ${rows.length} ${rows.length === 1 ? "name" : "names"} in ${Math.round(took)} ms`));
    if (!answer) announce(`${rows.length} names.`);
    if (focus) (names.querySelector("button") || box).focus();
  }

  async function search() {
    const part = words.value.toLowerCase();
    if (!part) return first();
    run += 1;
    const mine = run, rows = [];
    let cursor = "", looked = 0;
    do {
      const query = new URLSearchParams({ prefix, keys: "true", limit: "1000" });
      if (cursor) query.set("cursor", cursor);
      const answer = await ask(`store?${query}`);
      if (ended || run !== mine) return;
      if (!answer.ok) { fill(note, refusal(answer, "GET /store")); showRows(rows.slice(0, LISTED), 0); break; }
      looked += answer.data.items.length;
      for (const key of answer.data.items) if (key.toLowerCase().includes(part)) rows.push({ key });
      cursor = answer.data.next_cursor;
      const over = rows.length >= LISTED;
      fill(note, h("p", { role: "status" }, `${rows.length} of ${count(looked)} names have \u201c${visible(part)}\u201d${cursor ? (over ? "; more are not shown" : "\u2026") : ""}.`));
      showRows(rows.slice(0, LISTED), 0);
      if (over) break;
    } while (cursor);
    fill(pages, button("Back to the list", () => { words.value = ""; first(); }));
  }

  // ---- one key ----

  let current = null, ticking = null, editing = false;

  // Value and properties of one version: the bytes come as they are stored, the rest as JSON.
  async function read(key) {
    const path = pathOf(key);
    if (!path) return { answer: { status: 0, body: { title: "A browser cannot ask for this key", detail: "It folds the path away; use curl --path-as-is." } } };
    for (let tries = 0; ; tries += 1) {
      const [about, raw] = await Promise.all([ask(path), ask(`${path}?raw`, { raw: true })]);
      if (!about.ok || !raw.ok) return { answer: about.ok ? raw : about };
      const version = /"(\d+)"/.exec(raw.headers.get("etag") || "");
      if ((version && Number(version[1]) === about.data.version) || tries > 4) {
        const { version: of, create_version: created, content_type: type, ttl, by } = about.data;
        return { item: { key, data: raw.bytes, version: of, created, type, ttl, by, at: performance.now() } };
      }
    }
  }

  async function open(key, keepFocus, before) {
    chosen = key;
    editing = false;
    for (const one of names.querySelectorAll("button")) { if (one.dataset.name === key) one.setAttribute("aria-current", "true"); else one.removeAttribute("aria-current"); }
    history.replaceState(null, "", `#keys?${new URLSearchParams({ prefix, key })}`);
    const { item, answer } = await read(key);
    if (ended || chosen !== key || editing) return;
    clearInterval(ticking);
    if (!item) { current = null; fill(detail, h("div", { class: "title" }, isolated(key)), h("p", {}), before, answer.status === 404 ? h("p", { class: "note warn", role: "status" }, "\u25b2 There is no such key now.") : refusal(answer, "GET")); return; }
    current = item;
    show(item, before);
    if (!keepFocus) { const title = detail.querySelector("h2"); title.focus({ preventScroll: false }); }
  }

  const left = (item) => Math.max(0, Math.ceil(item.ttl - (performance.now() - item.at) / 1000));

  function show(item, before) {
    const text = textOf(item.data), pretty = text !== null && text.length <= SHOWN_BYTES ? prettyJson(text) : null;
    const forms = [pretty !== null && /json/.test(item.type) ? "JSON" : null, text !== null ? "text" : null, "hex"].filter(Boolean);
    const value = h("pre", { class: "value", tabindex: "0", role: "region", "aria-label": "Value" }), cut = h("p", { class: "small dim" });
    const showAs = (form) => {
      value.className = form === "hex" ? "value hex" : "value";
      const part = form === "JSON" ? pretty : form === "text" ? text.slice(0, SHOWN_BYTES) : hexOf(item.data), written = visibleText(part);
      value.textContent = written;
      const shown = form === "hex" ? HEX_BYTES : SHOWN_BYTES, length = form === "text" ? text.length : form === "hex" ? item.data.length : 0;
      cut.textContent = [length > shown ? `The first ${bytes(shown)} of ${bytes(item.data.length)}.` : "",
        written !== part ? "Characters that cannot be seen are written as \\u{\u2026}; the bytes are under hex." : ""].filter(Boolean).join(" ");
    };
    const ttl = h("span", {});
    const tick = () => {
      ttl.textContent = item.ttl === undefined ? "never" : left(item) > 0 ? `in ${span(left(item))}` : "now";
      if (item.ttl !== undefined && left(item) <= 0 && !editing) { clearInterval(ticking); setTimeout(() => { if (chosen === item.key && !editing) open(item.key, true); }, 1500); }
    };
    tick();
    ticking = setInterval(tick, 1000);
    fill(detail, h("h2", { class: "title", tabindex: "-1" }, isolated(item.key)), before, h("dl", { class: "facts" },
      fact("Version", count(item.version)), fact("Created at", count(item.created)), fact("Expires", ttl), fact("Size", bytes(item.data.length)), fact("Type", visible(item.type)), item.by ? fact("Written by", visible(item.by)) : null),
    h("fieldset", {}, h("legend", {}, "Shown as"), forms.map((form, at) => h("label", {}, h("input", { type: "radio", name: "form", checked: at === 0, onchange: () => showAs(form) }), ` ${form}`))),
    value, cut,
    h("div", { class: "row tight" }, button("Edit", () => edit(item), { disabled: text === null || item.data.length > SHOWN_BYTES, title: text === null ? "Bytes that are no text are edited with curl" : undefined }),
      button("Reload", () => open(item.key)), button("Delete\u2026", () => remove(item), { class: "risk" })),
    curlLine(curlOf(readable(item.key)), "Reading it"));
    showAs(forms[0]);
  }

  const ttlField = (value) => h("input", { type: "number", min: "1", max: "315360000", step: "1", value, placeholder: "never" });
  const putPath = (key, ttl) => `${pathOf(key)}${ttl ? `?ttl=${encodeURIComponent(ttl)}` : ""}`;

  // The second step: a form whose write holds only for the version that was read.
  function edit(item, text = textOf(item.data), type = item.type) {
    editing = true;
    clearInterval(ticking);
    const area = h("textarea", { spellcheck: "false", value: text }), kind = h("input", { type: "text", value: type }), ttl = ttlField(item.ttl === undefined ? "" : left(item) || 1);
    const result = h("div", {}), lifetime = ttl.value, stored = textOf(item.data);
    // A text area knows the line end \n alone: what was not changed is written as it was, and lines that ended in \r\n do so again.
    const lines = (text) => text.replace(/\r\n?/g, "\n");
    const isCrlf = stored !== null && stored.includes("\r\n") && !/[\r\n]/.test(stored.replace(/\r\n/g, ""));
    const body = () => (stored !== null && area.value === lines(stored) ? item.data : isCrlf ? area.value.replace(/\n/g, "\r\n") : area.value);
    // Neither is a lifetime prolonged by the time that the form was open.
    const seconds = () => (lifetime && ttl.value === lifetime ? String(left(item) || 1) : ttl.value);
    const save = async (version) => {
      const answer = await ask(putPath(item.key, seconds()), { method: "PUT", body: body(), headers: { "Content-Type": kind.value, ...(version ? { "If-Match": `"${version}"` } : { "If-None-Match": "*" }) } });
      if (ended || chosen !== item.key) return;
      if (answer.ok) { editing = false; announce("Saved."); open(item.key, false, success(`Saved as version ${answer.data.version}.`)); return; }
      fill(result, refusal(answer, "PUT"));
      if (answer.status === 412) conflict(answer.body.version);
    };
    const conflict = async (version) => {
      const theirs = version === 0 ? null : (await read(item.key)).item || null;
      if (ended || chosen !== item.key || !editing) return;
      announce("The key has changed since you read it. Both texts are shown.");
      const their = theirs && textOf(theirs.data);
      put(result, [h("div", { class: "two" },
        h("div", {}, h("h2", {}, theirs ? `Theirs, version ${theirs.version}` : "Theirs: the key is gone"), h("pre", { class: "value", tabindex: "0", role: "region", "aria-label": "Theirs" }, theirs ? visibleText(their ?? hexOf(theirs.data)) : "")),
        h("div", {}, h("h2", {}, `Mine, from version ${item.version}`), h("pre", { class: "value", tabindex: "0", role: "region", "aria-label": "Mine" }, visibleText(area.value)))),
      h("div", { class: "row tight" }, button("Take theirs", () => { editing = false; open(item.key); }), button(theirs ? "Write mine over it" : "Create it with mine", () => save(theirs ? theirs.version : 0), { class: "risk" }))]);
      result.scrollIntoView({ block: "nearest" });
    };
    fill(detail, h("h2", { class: "title", tabindex: "-1" }, isolated(item.key)), h("p", { class: "dim" }, `The write is refused unless the key still has version ${item.version} (If-Match).`),
      h("form", { onsubmit: (event) => { event.preventDefault(); save(item.version); } }, h("label", { class: "field" }, "Value", area), h("p", {}),
        h("div", { class: "row" }, h("label", { class: "field grow" }, "Content type", kind), field("Expires in, seconds", ttl)),
        stored !== null && stored.includes("\r") && !isCrlf ? h("p", { class: "note warn" }, "\u25b2 This value has line ends of several kinds. Once it is changed here, all of them are \\n.") : null,
        h("div", { class: "row tight" }, h("button", { type: "submit", class: "main" }, "Save"), button("Cancel", () => { editing = false; open(item.key); }))),
      curlLine(curlOf(readable(item.key), ["-X PUT", "-H", quoted(`If-Match: "${item.version}"`), "-H", quoted(`Content-Type: ${item.type}`), "--data-binary @FILE"]), "Writing it"), result);
    area.focus();
  }

  function create() {
    editing = true;
    chosen = null;
    clearInterval(ticking);
    const key = h("input", { type: "text", required: true, spellcheck: "false", autocapitalize: "off", value: prefix }), area = h("textarea", { spellcheck: "false" });
    const kind = h("input", { type: "text", value: "text/plain; charset=utf-8" }), ttl = ttlField(""), result = h("div", {});
    const save = async () => {
      const name = key.value;
      if (!pathOf(name)) return fill(result, refusal((await read(name)).answer));
      const answer = await ask(putPath(name, ttl.value), { method: "PUT", body: area.value, headers: { "Content-Type": kind.value, "If-None-Match": "*" } });
      if (ended) return;
      if (answer.ok) { editing = false; await list(); open(name, false, success(`Created, version ${answer.data.version}.`)); return; }
      fill(result, refusal(answer, "PUT"), answer.status === 412 ? button("Open the key that is there", () => open(name)) : null);
    };
    fill(detail, h("h2", { class: "title", tabindex: "-1" }, "New key"), h("p", { class: "dim" }, "The write is refused where there is such a key (If-None-Match: *)."),
      h("form", { onsubmit: (event) => { event.preventDefault(); save(); } }, h("label", { class: "field" }, "Key", key), h("p", {}), h("label", { class: "field" }, "Value", area), h("p", {}),
        h("div", { class: "row" }, h("label", { class: "field grow" }, "Content type", kind), field("Expires in, seconds", ttl)),
        h("div", { class: "row tight" }, h("button", { type: "submit", class: "main" }, "Create"), button("Cancel", () => { editing = false; idle(); }))), result);
    key.focus();
  }

  function remove(item) {
    const line = (text) => text.replace(/\r\n?/g, "\n"), type = { spellcheck: "false", autocomplete: "off", autocapitalize: "off" };
    const name = /[\r\n]/.test(item.key) ? h("textarea", { rows: "2", ...type }) : h("input", { type: "text", ...type });
    openDialog("Delete this key?", [h("p", {}, "To delete ", h("b", { class: "mono" }, isolated(item.key)), `, version ${item.version}, type its name.`), field("Name", name)], "Delete", async () => {
      const answer = await ask(pathOf(item.key), { method: "DELETE", headers: { "If-Match": `"${item.version}"` } });
      if (ended) return;
      if (!answer.ok) return put(detail, [refusal(answer, "DELETE")]);
      clearInterval(ticking);
      chosen = null;
      announce("Deleted.");
      fill(detail, success("Deleted ", h("b", { class: "mono" }, isolated(item.key)), "."));
      list();
    }, [], () => name.value === line(item.key));
  }

  // ---- a prefix, live ----

  function toggleWatch() {
    if (watching) return stopWatch();
    watch.setAttribute("aria-pressed", "true");
    fill(feed);
    startWatch();
  }
  function stopWatch() {
    watching = null;
    closeStream();
    watch.setAttribute("aria-pressed", "false");
    feedBox.hidden = true;
    fill(feedNote);
  }
  let relist = null;
  function startWatch(last) {
    const mine = watching = {};
    feedBox.hidden = false;
    fill(feedNote, h("p", { class: "small dim", role: "status" }, "\u25cf Watching ", h("b", { class: "mono" }, prefix ? isolated(prefix) : "all keys"), ", live."));
    stream(`watch?${new URLSearchParams({ prefix })}`, {
      last,
      on(event) {
        if (watching !== mine) return;
        if (event.id) last = event.id;
        if (event.event === "progress") return;
        let data = {};
        try { data = JSON.parse(event.data); } catch { return; }
        if (data.key === undefined) { fill(feedNote, h("p", { class: "note warn", role: "status" }, `\u25b2 ${visible(event.event)}: ${visible(data.detail || "")}`)); return; }
        const value = event.event !== "put" ? "" : data.value === null && data.value_base64 ? "(bytes)" : typeof data.value === "string" ? data.value : JSON.stringify(data.value);
        feed.prepend(h("li", { class: "fresh" }, h("span", { class: event.event === "put" ? "good" : "warn" }, `${event.event === "put" ? "+" : "\u2212"} ${visible(event.event)}`),
          h("span", {}, h("b", {}, isolated(data.key)), h("span", { class: "dim" }, ` ${count(data.version)} `), visible(value.slice(0, 200)))));
        while (feed.children.length > 200) feed.lastChild.remove();
        clearTimeout(relist);
        relist = setTimeout(() => {
          if (ended || watching !== mine) return;
          announce(`${visible(event.event)} ${visible(data.key)}`);
          if (!words.value) list();
        }, 700);
        if (current && data.key === current.key && data.version !== current.version) {
          if (editing) announce("This key has just changed; saving will be refused.");
          else if (chosen === data.key) open(data.key, true, h("p", { class: "note warn", role: "status" }, `\u25b2 Changed by version ${data.version}.`));
        }
      },
      ended({ status, body }) {
        if (watching !== mine || ended) return;
        const gone = status >= 400 && status < 500 && status !== 429;
        fill(feedNote, gone ? refusal({ status, body }, "GET /watch") : h("p", { class: "note warn", role: "status" }, `\u25b2 ${visible(body.detail || "The stream ended")}; it is opened again.`));
        if (gone) { watching = null; watch.setAttribute("aria-pressed", "false"); return; }
        setTimeout(() => { if (watching === mine && !ended) startWatch(last); }, 1000);
      },
    });
  }

  list();
  if (parameters.get("key")) open(parameters.get("key"));
  return { close() { ended = true; clearInterval(ticking); clearTimeout(relist); watching = null; closeStream(); } };
}

// ---- members ----

function membersView(main) {
  const table = h("div", {}), result = h("div", {}), note = h("div", {});
  let ended = false, shown = "", busy = false;
  const name = h("input", { type: "text", required: true, autocomplete: "off", spellcheck: "false" }), address = h("input", { type: "text", required: true, autocomplete: "off", spellcheck: "false", placeholder: "host:port" });
  const force = h("input", { type: "checkbox" });
  const send = async (what, path, body, wait) => {
    if (busy) return;
    busy = true;
    fill(result, h("p", { class: "note", role: "status" }, `${what}\u2026`));
    const answer = await ask(path, { method: "POST", body: JSON.stringify(body || {}), headers: { "Content-Type": "application/json" }, wait: wait || 12000, slow: true });
    busy = false;
    if (ended) return;
    const warning = answer.ok && answer.data && answer.data.warning;
    fill(result, answer.ok ? success(`${what}: ${visible(answer.message || "done")}`) : refusal(answer, what), warning ? h("p", { class: "note warn" }, `\u25b2 ${visible(warning)}`) : null);
    refresh();
  };
  const join = () => send(`Join ${visible(name.value)}`, "raft/join", { node_id: name.value, raft_address: address.value, ...(force.checked ? { force: true } : {}) }, 65000);
  const rest = h("div", {}, h("div", { class: "panel wide" }, table),
    h("div", { class: "grid" },
      h("section", { class: "panel", "aria-labelledby": "join-title" }, h("h2", { id: "join-title" }, "Join a node"), h("form", { onsubmit: (event) => {
        event.preventDefault();
        if (!force.checked) return join();
        const typed = h("input", { type: "text", autocomplete: "off", spellcheck: "false" });
        openDialog("Drop the data of that node?", [h("p", {}, "With force the node gives up the data that it holds. To join it, type its name: ", h("b", { class: "mono" }, isolated(name.value))), field("Name", typed)], "Join with force", join, [], () => typed.value === name.value);
      } }, h("div", { class: "row" }, h("label", { class: "field grow" }, "Name", name), h("label", { class: "field grow" }, "Raft address", address)),
      h("p", {}, h("label", {}, force, " force: also if it holds data of its own, which it then gives up")), h("button", { type: "submit", class: "main" }, "Join"))),
      h("section", { class: "panel", "aria-labelledby": "rest-title" }, h("h2", { id: "rest-title" }, "Leadership and disk"),
        h("p", { class: "dim" }, "A transfer without a name goes to the voter that is most caught up. A snapshot is taken by the node that served this page."),
        h("div", { class: "row tight" }, button("Transfer the lead", () => send("Transfer", "raft/transfer")), button("Take a snapshot", () => send("Snapshot", "raft/snapshot", null, 60000))))));
  put(main, [h("h1", { tabindex: "-1" }, "Members"), note, result, rest]);

  // A token without the right to figures may still see the members in the stats.
  async function ofStats() {
    const answer = await ask("raft/stats");
    const stats = answer.ok ? answer.data : {};
    return { problem: answer.ok ? null : answer, asked: stats.node_id, not_ready: stats.not_ready, members: (stats.members || []).map((one) => ({ name: one.node_id, raft_address: one.raft_address, http_address: one.http_address,
      role: stats.leader && stats.leader.node_id === one.node_id ? "leader" : one.role || "follower", reachable: one.connected !== false })).sort((a, b) => (a.name < b.name ? -1 : 1)) };
  }
  function confirmRemoval(one) {
    const typed = h("input", { type: "text", autocomplete: "off", spellcheck: "false", autocapitalize: "off" });
    openDialog("Remove this member?", [h("p", {}, "To remove ", h("b", { class: "mono" }, isolated(one.name)), " from the cluster, type its name."), field("Name", typed)], "Remove",
      () => send(`Remove ${visible(one.name)}`, "raft/remove", { node_id: one.name }), [], () => typed.value === one.name);
  }
  // A node outside of a cluster can change no members: its own words, and how a member joins it.
  function outside(all, own) {
    const known = all.members.filter((one) => one.name !== all.asked && pageOf(one));
    const said = visible(all.not_ready.detail);
    fill(note, h("div", { class: "note warn", role: "status" }, h("p", {}, `\u25b2 ${said[0].toUpperCase()}${said.slice(1)}.`),
      h("p", {}, "On the page of a member this view can join it: name ", h("b", { class: "mono" }, isolated(all.asked)), own ? [", Raft address ", h("b", { class: "mono" }, visible(own.raft_address))] : "", ".",
        known.length ? [" Members that it knew: ", known.map((one, at) => [at ? ", " : "", h("a", { href: pageOf(one), rel: "noreferrer" }, isolated(one.name))]), "."] : "")));
  }
  return {
    async update() {
      const overview = state.problem ? null : state.overview;
      const own = ownRow(overview);
      // A node that was removed has the members that it knew in its stats alone.
      const all = state.problem || isOutside(own) ? await ofStats() : overview;
      if (ended || !all) return;
      if (all.problem) { shown = ""; return fill(table, refusal(all.problem, "GET /raft/stats")); }
      const next = JSON.stringify([isOutside(all) && all.not_ready, all.members.map((one) => [one.name, roleOf(one), one.raft_address, one.http_address])]);
      if (next === shown) return;
      shown = next;
      rest.hidden = isOutside(all);
      if (rest.hidden) return outside(all, own);
      fill(note);
      const columns = ["Member", "Role", "HTTP address", "Raft address", "Change"];
      fill(table, h("table", { class: "cards", role: "table", "aria-label": "Members" }, h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, columns.map((text) => h("th", { scope: "col", role: "columnheader" }, text)))),
        h("tbody", { role: "rowgroup" }, all.members.map((one) => h("tr", { role: "row" }, [
          [h("b", {}, isolated(one.name)), one.name === all.asked ? h("span", { class: "dim small" }, " asked") : ""], roleChip(one), h("span", { class: "mono" }, visible(one.http_address || "")), h("span", { class: "mono" }, visible(one.raft_address || "")),
          h("div", { class: "row tight" }, button("Make leader", () => send(`Transfer to ${visible(one.name)}`, "raft/transfer", { node_id: one.name }), { disabled: roleOf(one) === "leader", "data-focus": `lead ${one.name}`, "aria-label": `Make ${visible(one.name)} the leader` }),
            button("Remove\u2026", () => confirmRemoval(one), { class: "risk", "data-focus": `remove ${one.name}`, "aria-label": `Remove ${visible(one.name)}` })),
        ].map((cell, at) => h("td", { role: "cell", "data-label": columns[at] }, h("div", {}, cell))))))));
    },
    close() { ended = true; },
  };
}

// ---- which view ----

const VIEWS = { cluster: clusterView, timeline: timelineView, load: loadView, keys: keysView, members: membersView };
let view = null;

function route(event) {
  const [name, query = ""] = location.hash.slice(1).split(/\?(.*)/s);
  const chosen = VIEWS[name] ? name : "cluster";
  if (view && view.close) view.close();
  closeStream();
  for (const link of $("tabs").querySelectorAll("a")) {
    if (link.hash === `#${chosen}`) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  const main = $("main");
  main.replaceChildren();
  main.dataset.view = chosen;
  view = VIEWS[chosen](main, new URLSearchParams(query));
  if (view.update) view.update();
  if (event) main.querySelector("h1").focus();
}

async function footer() {
  const answer = await ask("version");
  const about = answer.ok ? answer.data : null;
  $("foot").textContent = about && about.huskv ? `huskv ${about.huskv}${about.commit ? ` (${about.commit})` : ""}` : "";
}

$("skip").addEventListener("click", (event) => { event.preventDefault(); $("main").focus(); });
$("token").addEventListener("click", () => tokenDialog());
window.addEventListener("hashchange", route);
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
showTokenState();
route();
refresh();
footer();
let turn = 0;
setInterval(() => {
  turn += 1;
  // What a token may not see is asked for less often.
  const denied = state.problem && (state.problem.status === 401 || state.problem.status === 403);
  if (!document.hidden && (!denied || turn % 8 === 0)) refresh();
}, POLL_MS);

export { $, announce, ask, button, chip, fill, h, isolated, refresh, refusal, roleChip, state, visible };
