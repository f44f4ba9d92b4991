// What htmx and the browser do not do by themselves. The page works without it.
(() => {
  "use strict";
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const TOAST_MS = 6000;

  // --- choosing members ----------------------------------------------------------------------------------------------

  document.documentElement.classList.add("scripted");
  const language = document.documentElement.lang;
  const boxes = () => $$("#members tbody input[name=member]");
  const areAllChosen = () => Boolean($("#matching")?.checked);

  function countChosen() {
    return areAllChosen() ? Number($("#members").dataset.total) : boxes().filter((box) => box.checked).length;
  }

  // What is chosen is said in numbers, beside what can be done with it.
  function showChosen() {
    const all = $("#all");
    const ticked = boxes().filter((box) => box.checked).length;
    if (all) {
      all.checked = ticked > 0 && ticked === boxes().length;
      all.indeterminate = ticked > 0 && !all.checked;
    }
    const said = $("#selected");
    if (!said) return;
    const count = countChosen();
    const form = new Intl.PluralRules(language).select(count) === "one" ? said.dataset.one : said.dataset.other;
    said.hidden = count === 0;
    $("strong", said).textContent = form.replace("#", count.toLocaleString(language));
    $("#selection").classList.toggle("chosen", count > 0);
  }

  function choose(isChosen) {
    boxes().forEach((box) => { box.checked = isChosen; });
    if (!isChosen && $("#matching")) $("#matching").checked = false;
  }

  const tellCost = () => $("#selection")?.dispatchEvent(new Event("input", { bubbles: true }));

  document.addEventListener("change", (event) => {
    const { id, name, checked } = event.target;
    if (id === "all") choose(checked);
    if (id === "matching" && checked) choose(true);
    if (name === "member" && !checked && $("#matching")) $("#matching").checked = false;
    if (event.target.closest("#members")) showChosen();
  });

  document.addEventListener("click", (event) => {
    if (!event.target.closest("#unselect")) return;
    choose(false);
    showChosen();
    tellCost();
  });

  // What was done must not be there to be done again.
  document.addEventListener("spent", () => {
    choose(false);
    if ($("#amount")) $("#amount").value = "";
    showChosen();
    tellCost();
  });

  // --- the members that are looked for -------------------------------------------------------------------------------

  const MEMBERS = ["search", "show", "sort", "direction", "page"];

  // The address has what is looked for, so that it can be kept, and read again.
  function showAddress() {
    const list = $("#members");
    if (!list || location.pathname !== "/") return;
    const wanted = new URLSearchParams(location.search);
    MEMBERS.forEach((name) => wanted.delete(name));
    new URLSearchParams(list.dataset.address).forEach((value, name) => wanted.set(name, value));
    const query = wanted.toString();
    if (query !== location.search.slice(1)) history.replaceState(history.state, "", query ? `/?${query}` : "/");
  }

  // Who is ticked stays so, as long as they are shown. Another list is another selection.
  let chosen = null;

  function keepTicks() {
    chosen = { ids: boxes().filter((box) => box.checked).map((box) => box.value), all: areAllChosen(), of: listOf($("#members")) };
  }

  const listOf = (list) => list.dataset.address.replace(/&?page=\d+/, "");

  function tickAgain() {
    if (!chosen) return;
    const again = new Set(chosen.ids);
    boxes().forEach((box) => { if (again.has(box.value)) box.checked = true; });
    if (chosen.all && $("#matching") && chosen.of === listOf($("#members"))) {
      $("#matching").checked = true;
      choose(true);
    }
    chosen = null;
  }

  // While another list is on its way, a refresh of the old one comes too late; it is made up for.
  let sought = 0;
  let missed = false;
  const isOfMembers = (event) => event.detail.target?.id === "members";

  document.addEventListener("htmx:beforeRequest", (event) => { if (isOfMembers(event)) sought += 1; });
  document.addEventListener("htmx:afterRequest", (event) => {
    if (!isOfMembers(event)) return;
    sought -= 1;
    if (sought === 0 && missed) {
      missed = false;
      htmx.trigger(document.body, "refresh");
    }
  });
  document.addEventListener("htmx:beforeSwap", (event) => { if (isOfMembers(event)) keepTicks(); });

  function isOtherList(list, fragment) {
    const is = sought > 0 || $("#members", fragment).dataset.asked !== list.dataset.address;
    missed = missed || (is && sought > 0);
    return is;
  }

  // --- parts that are exchanged --------------------------------------------------------------------------------------

  // The tab of the history that was turned last. Whatever is on its way with the lines of another one comes too late:
  // it is not aborted, which htmx would call an error, but left out.
  let turned = null;
  const filterOf = (root) => $("#history-filter", root)?.value;

  function isOld(list, fragment) {
    return list.hasAttribute("data-paged") || filterOf(fragment) !== (turned ?? filterOf(list));
  }

  // The tab is in the address: it is still there after a reload, or in the other language.
  function remember(tab) {
    const address = new URL(location.href);
    if (tab === "all") address.searchParams.delete("filter");
    else address.searchParams.set("filter", tab);
    history.replaceState(history.state, "", address);
  }

  // A part in which somebody is at work stays as it is; who is ticked stays ticked.
  document.addEventListener("htmx:oobBeforeSwap", (event) => {
    const { target, fragment } = event.detail;
    if (target.matches("[data-keep]") || (target.id === "history-list" && isOld(target, fragment))) {
      event.detail.shouldSwap = false;
    }
    if (target.id === "members") {
      if (isOtherList(target, fragment)) event.detail.shouldSwap = false;
      else keepTicks();
    }
  });

  document.addEventListener("htmx:beforeRequest", (event) => {
    if (event.target.closest("[data-older]")) $("#history-list").setAttribute("data-paged", "");
    const tab = event.target.closest("[data-tab]");
    if (tab) {
      turned = tab.dataset.tab;
      $("#history-list").removeAttribute("data-paged");
    }
  });

  document.addEventListener("htmx:afterRequest", (event) => {
    const failed = !event.detail.successful || event.detail.xhr.status >= 400; // 429 is swapped in, as a toast
    const tab = event.detail.requestConfig.elt.closest("[data-tab]"); // which may be gone from the page by now
    if (tab && failed) turned = null;
    else if (tab) remember(tab.dataset.tab);
  });

  document.addEventListener("htmx:afterSwap", (event) => {
    const region = event.detail.target;
    if (region?.tabIndex === -1 && document.activeElement === document.body) region.focus({ preventScroll: true });
  });

  htmx.onLoad((loaded) => {
    const within = (selector) => (loaded.matches?.(selector) ? [loaded] : $$(selector, loaded));
    within("dialog.confirm").forEach((dialog) => {
      dialog.addEventListener("close", () => dialog.remove());
      dialog.showModal();
    });
    within("[data-scripted]").forEach((each) => { each.hidden = false; });
    within("[data-focus]").forEach((field) => { field.focus(); field.select(); });
    within("[data-print]").forEach((button) => {
      button.hidden = false;
      button.addEventListener("click", () => print());
    });
    within(".toast").forEach((toast) => setTimeout(() => toast.remove(), TOAST_MS));
    if (within("#members").length) {
      $("#all")?.removeAttribute("name"); // it is for those who have no script
      tickAgain();
      showChosen();
      showAddress();
      if ($("#amount")?.value) tellCost();
    }
  });

  document.addEventListener("click", (event) => {
    const dialog = event.target.closest("dialog");
    if (!dialog) return;
    if (event.target.closest("[data-close]") || event.target === dialog) {
      event.preventDefault();
      dialog.close();
    }
  });

  // --- a file in place of what is pasted --------------------------------------------------------------------------------

  // Spreadsheets save text in UTF-8, in Windows' own code, or in UTF-16, and only the last one says which.
  function decoded(bytes) {
    const [first, second] = new Uint8Array(bytes);
    if (first === 0xff && second === 0xfe) return new TextDecoder("utf-16le").decode(bytes);
    try {
      return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    } catch {
      return new TextDecoder("windows-1252").decode(bytes);
    }
  }

  const MOST_BYTES = 64 * 1024;

  document.addEventListener("change", async (event) => {
    const { into } = event.target.dataset;
    const [file] = event.target.files ?? [];
    if (!into || !file) return;
    const field = $(`#${into}`);
    field.value = decoded(await file.slice(0, MOST_BYTES).arrayBuffer());
    field.dispatchEvent(new Event("change", { bubbles: true }));
  });

  // --- another language ----------------------------------------------------------------------------------------------

  // It loads the page again: what is being typed goes with it.
  let typing = null;
  document.addEventListener("input", (event) => { if (event.target.form?.elements.at) typing = event.target.form; });
  document.addEventListener("submit", (event) => {
    if (!event.target.matches(".speak") || !typing?.isConnected) return;
    const field = Object.assign(document.createElement("input"), { type: "hidden", name: "draft" });
    field.value = new URLSearchParams(new FormData(typing)).toString();
    event.target.append(field);
  });

  // --- what went wrong on the way ------------------------------------------------------------------------------------

  function lost() {
    const toast = $("#lost")?.content.firstElementChild.cloneNode(true);
    if (!toast || $("#toasts .bad")) return;
    $("#toasts").append(toast);
    setTimeout(() => toast.remove(), TOAST_MS);
  }

  ["htmx:responseError", "htmx:sendError", "htmx:timeout"].forEach((name) => document.addEventListener(name, lost));
})();
