// The part of the page that scrolls: it follows the answers while its end is in view.

const AT_END_PX = 40;

class Log {
  constructor() {
    this.node = byId("fj-log");
    this.button = byId("fj-to-end");
    this.isFollowing = true;
    this.button.append(icon("down"));
    this.button.addEventListener("click", () => { this.scrollToEnd(); this.node.focus({ preventScroll: true }); });
    this.node.addEventListener("scroll", () => this._look(), { passive: true });
    new ResizeObserver(() => this.follow()).observe(this.node);
  }

  // What is added below does not move what the user reads further up.
  follow() {
    if (this.isFollowing) this.scrollToEnd(); else this._look();
  }

  scrollToEnd() {
    this.isFollowing = true;
    requestAnimationFrame(() => { this.node.scrollTop = this.node.scrollHeight; this._look(); });
  }

  _look() {
    const { scrollHeight, scrollTop, clientHeight } = this.node;
    this.isFollowing = scrollHeight - scrollTop - clientHeight < AT_END_PX;
    this.button.hidden = this.isFollowing;
  }
}
