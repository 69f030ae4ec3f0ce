// A formula wider than the screen scrolls in its own box: let the keyboard reach it.
(() => {
  const mark = () => {
    for (const box of document.querySelectorAll(".equation > .scroll")) {
      if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };
  addEventListener("load", mark);
  addEventListener("resize", mark);
})();
