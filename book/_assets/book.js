// Small services to keyboards, screen readers, and pages opened from the disk.
(() => {
  // What is wider than the screen scrolls in its own box: let the keyboard reach it.
  const mark = () => {
    for (const box of document.querySelectorAll(".equation > .scroll, article pre, .companion-table, .pst-scrollable-table-container")) {
      if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };
  addEventListener("load", mark);
  addEventListener("resize", mark);

  // The theme's folding arrows have no name; the bibliography's list has no list items.
  for (const arrow of document.querySelectorAll(".bd-links summary")) {
    arrow.setAttribute("aria-label", `Pages of ${arrow.closest("li").querySelector("a").textContent.trim()}`);
  }
  for (const list of document.querySelectorAll(".citation-list")) list.removeAttribute("role");

  // A formula stands thrice in a page, as picture, as structure and as source. What the search shows of it is the structure.
  if (typeof Search !== "undefined") {
    const text = Search.htmlToText;
    Search.htmlToText = (html, anchor) => {
      const page = new DOMParser().parseFromString(html, "text/html");
      for (const double of page.querySelectorAll(".katex-html, annotation, .meaning")) double.remove();
      return text(page.documentElement.outerHTML, anchor);
    };
  }

  // From the disk, the search may not read the pages it has found.
  if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
})();
