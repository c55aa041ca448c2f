package web

import (
	"errors"
	"fmt"
	"strings"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// orderRoutes are a work order, what can be done to it, and its tokens.
func orderRoutes() []route {
	return []route{
		{Method: get, Pattern: "/work-orders/{id}", Permission: enroll.MaySeeOrders, live: true, handle: getOrder},
		{Method: post, Pattern: "/work-orders/{id}/quantity", Permission: enroll.MayRegister, handle: postQuantity},
		{Method: post, Pattern: "/work-orders/{id}/state", Permission: enroll.MayRegister, handle: postOrderState},
		{Method: post, Pattern: "/work-orders/{id}/tokens", Permission: enroll.MayRegister, handle: postOrderToken},
		{Method: post, Pattern: "/work-orders/{id}/tokens/{token}/end", Permission: enroll.MayRegister, handle: postEndToken},
	}
}

// An orderPage is one work order.
type orderPage struct {
	*enroll.WorkOrderProgress
	Order      *enroll.WorkOrder
	URL        string
	ProfileURL string
	Quota      quotaBar
	Chart      columnChart
	LastHour   int64 // enrolled in it
	Tokens     []tokenRow
	Next       string // URL of more tokens
	First      string
	Quantity   string // as typed
	Form       tokenForm
	Commands   []equivalent
	Error      *refusal
	At         string // which form was refused
}

// A tokenRow is an enrollment token, without its secret.
type tokenRow struct {
	*enroll.EnrollmentToken
	State string // open, used up or expired
	URL   string // that ends it; empty when it has ended
}

// The states of a token; tones knows them.
const (
	tokenOpen    = "open"
	tokenUsedUp  = "used up"
	tokenExpired = "expired"
)

// A tokenForm is what a token is asked for with.
type tokenForm struct{ Device, Uses, ExpiresIn string }

func getOrder(v *visit) (answer, error) { return orderAnswer(v, nil, "", nil) }

// orderAnswer is a work order's page, with what was typed into the form of
// tokens, and which form was refused.
func orderAnswer(v *visit, form *tokenForm, at string, r *refusal) (answer, error) {
	progress, err := v.site.service.WorkOrderProgress(v.ctx(), v.param("id"))
	if err != nil {
		return nil, err
	}
	o := progress.Order
	p := orderPage{WorkOrderProgress: progress, Order: o, URL: orderURL(o.ID), ProfileURL: profileURL(o.Profile), Quota: quotaOf(o), At: at, Error: r,
		Quantity: v.form("quantity"), Form: tokenForm{Uses: "1", ExpiresIn: "24h"}}
	if form != nil {
		p.Form = *form
	}
	p.Chart, p.LastHour = minuteChart(progress.PerMinute)
	if v.may(enroll.MayRegister) {
		if err := v.orderTokens(&p); err != nil {
			return nil, err
		}
		p.Commands = v.orderCommands(o)
	}
	return page{name: "order", title: o.ID, data: p}, nil
}

// orderCommands are what the page's forms do.
func (v *visit) orderCommands(o *enroll.WorkOrder) []equivalent {
	at, more := "/work-orders/"+o.ID, o.Quantity+100
	return []equivalent{
		{"Set the quota", v.site.command(at+"/update", enroll.WorkOrderUpdate{Quantity: &more}, "order", "update", o.ID, "--quantity", fmt.Sprint(more))},
		{"Close the order", v.site.command(at+"/update", enroll.WorkOrderUpdate{State: new(enroll.OrderClosed)}, "order", "update", o.ID, "--state", "closed")},
		{"Make a token", v.site.command(at+"/tokens", enroll.NewToken{Uses: 10, ExpiresIn: "8h"}, "token", "create", "--work-order", o.ID, "--uses", "10", "--expires", "8h")},
		{"End a token", v.site.command(at+"/tokens/TOKEN/end", nil, "token", "revoke", "TOKEN", "--work-order", o.ID)},
	}
}

func (v *visit) orderTokens(p *orderPage) error {
	tokens, next, err := v.site.service.EnrollmentTokens(v.ctx(), p.Order.ID, v.page(20))
	if err != nil {
		return err
	}
	now := v.site.now()
	for _, t := range tokens {
		row := tokenRow{EnrollmentToken: t, State: tokenOpen}
		switch {
		case t.Used >= t.Uses:
			row.State = tokenUsedUp
		case !now.Before(t.ExpiresAt):
			row.State = tokenExpired
		default:
			row.URL = orderURL(p.Order.ID, "tokens", t.ID, "end")
		}
		p.Tokens = append(p.Tokens, row)
	}
	if v.query("cursor") != "" {
		p.First = p.URL
	}
	if next != "" {
		p.Next = listURL(p.URL, "cursor", next)
	}
	return nil
}

// minuteChart draws how many devices were enrolled in each minute, and returns
// how many those are.
func minuteChart(minutes []enroll.MinuteCount) (columnChart, int64) {
	var columns []chartColumn
	var sum int64
	for i, m := range minutes {
		sum += m.Issued
		clock := m.At.UTC().Format("15:04")
		c := chartColumn{Parts: []int64{m.Issued}, Label: clock + " UTC: " + grouped(m.Issued)}
		if i%10 == 0 {
			c.Tick = clock
		}
		columns = append(columns, c)
	}
	return newColumnChart(columns, 900, 110), sum
}

func postQuantity(v *visit) (answer, error) {
	n, err := wholeNumber("quantity", v.form("quantity"))
	if err == nil {
		_, err = v.site.service.UpdateWorkOrder(v.ctx(), v.call(), v.param("id"), enroll.WorkOrderUpdate{Quantity: &n})
	}
	if err != nil {
		return v.refused(err, func(r *refusal) (answer, error) { return orderAnswer(v, nil, "quantity", r) })
	}
	return redirect{orderURL(v.param("id")) + "?note=order-quantity"}, nil
}

func postOrderState(v *visit) (answer, error) {
	state := enroll.OrderState(v.form("state"))
	_, err := v.site.service.UpdateWorkOrder(v.ctx(), v.call(), v.param("id"), enroll.WorkOrderUpdate{State: &state})
	if err != nil {
		return v.refused(err, func(r *refusal) (answer, error) { return orderAnswer(v, nil, "state", r) })
	}
	return redirect{orderURL(v.param("id")) + "?note=order-" + string(state)}, nil
}

// A tokenPage shows a new token, this once.
type tokenPage struct {
	Order, OrderURL string
	Token           *enroll.EnrollmentToken
	QR              qrCode
	Enroll          string // command that spends it
}

// postOrderToken answers with the page itself: the secret must not pass through
// a URL (I23).
func postOrderToken(v *visit) (answer, error) {
	id := v.param("id")
	form := tokenForm{Device: v.form("device"), Uses: v.form("uses"), ExpiresIn: v.form("expires")}
	t, err := v.newOrderToken(id, form)
	if again, ok := errors.AsType[*enroll.Replay](err); ok {
		t, err = replayed[enroll.EnrollmentToken](again)
	}
	if err != nil {
		return v.refused(err, func(r *refusal) (answer, error) { return orderAnswer(v, &form, "token", r) })
	}
	qr, err := newQRCode(t.Token)
	if err != nil {
		return nil, err
	}
	device := t.DeviceID
	if device == "" {
		device = "DEVICE"
	}
	return page{name: "token", title: "New enrollment token", data: tokenPage{
		Order: id, OrderURL: orderURL(id), Token: t, QR: qr,
		Enroll: "fleetca device enroll " + device + " --server " + shellWord(v.site.cfg.APIURL) + " --ca trust-bundle.pem --enrollment-token-file token --out " + device,
	}}, nil
}

func (v *visit) newOrderToken(order string, form tokenForm) (*enroll.EnrollmentToken, error) {
	n := enroll.NewToken{DeviceID: strings.TrimSpace(form.Device), ExpiresIn: strings.TrimSpace(form.ExpiresIn)}
	if strings.TrimSpace(form.Uses) != "" {
		var err error
		if n.Uses, err = wholeNumber("uses", form.Uses); err != nil {
			return nil, err
		}
		if n.Uses < 1 {
			return nil, ca.Errorf(ca.KindMalformed, "uses", "give how many devices it shall enroll", "must be 1 or more")
		}
	}
	return v.site.service.CreateEnrollmentToken(v.ctx(), v.call(), order, n)
}

func postEndToken(v *visit) (answer, error) {
	order := v.param("id")
	if _, err := v.site.service.EndEnrollmentToken(v.ctx(), v.call(), order, v.param("token")); err != nil && !errors.Is(err, ca.IsKind(enroll.KindConflict)) { // a conflict: it has ended
		return nil, err
	}
	return redirect{orderURL(order) + "?note=token-ended#tokens"}, nil
}
