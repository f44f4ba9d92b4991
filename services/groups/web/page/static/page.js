// What htmx and the browser do not do by themselves. The page works without it.
(() => {
  "use strict";
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const TOAST_MS = 6000;

  // --- choosing members ----------------------------------------------------------------------------------------------

  const boxes = () => $$("#members tbody input[name=member]");

  function showAll() {
    const all = $("#all");
    if (!all) return;
    const ticked = boxes().filter((box) => box.checked).length;
    all.checked = ticked > 0 && ticked === boxes().length;
    all.indeterminate = ticked > 0 && !all.checked;
  }

  document.addEventListener("change", (event) => {
    if (event.target.id === "all") {
      boxes().forEach((box) => { if (!box.closest("tr").hidden) box.checked = event.target.checked; });
    }
    if (event.target.closest("#members")) showAll();
  });

  function find() {
    const wanted = ($("#find")?.value ?? "").trim().toLocaleLowerCase();
    $$("#members tbody tr").forEach((row) => { row.hidden = !row.textContent.toLocaleLowerCase().includes(wanted); });
  }

  document.addEventListener("input", (event) => { if (event.target.id === "find") find(); });
  document.addEventListener("keydown", (event) => {
    if (event.target.id === "find" && event.key === "Enter") event.preventDefault();
  });

  // --- parts that are exchanged --------------------------------------------------------------------------------------

  // The tab of the history that was turned last. Whatever is on its way with the lines of another one comes too late:
  // it is not aborted, which htmx would call an error, but left out.
  let turned = null;
  const filterOf = (root) => $("#history-filter", root)?.value;

  function isOld(list, fragment) {
    return list.hasAttribute("data-paged") || filterOf(fragment) !== (turned ?? filterOf(list));
  }

  // A part in which somebody is at work stays as it is; who is ticked stays ticked.
  document.addEventListener("htmx:oobBeforeSwap", (event) => {
    const { target, fragment } = event.detail;
    if (target.matches("[data-keep]") || (target.id === "history-list" && isOld(target, fragment))) {
      event.detail.shouldSwap = false;
    }
    if (target.id === "members") {
      boxes().filter((box) => box.checked).forEach((box) => {
        const again = fragment.querySelector(`input[value="${box.value}"]`);
        if (again) again.checked = true;
      });
      const sought = $("#find");
      const again = fragment.querySelector("#find");
      if (sought && again) again.value = sought.value;
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
    if (failed && event.detail.elt.closest("[data-tab]")) turned = null;
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
    within(".toast").forEach((toast) => setTimeout(() => toast.remove(), TOAST_MS));
    if (within("#members").length) {
      const field = $("#find");
      if (field) field.hidden = false;
      find();
      showAll();
      if ($("#amount")?.value) $("#selection").dispatchEvent(new Event("input", { bubbles: true }));
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
    if (into && file) $(`#${into}`).value = decoded(await file.slice(0, MOST_BYTES).arrayBuffer());
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
